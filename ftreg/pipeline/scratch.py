"""Scratch: creates and registers an untrained base model, to be pre-trained with the ``full`` method."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftreg.context import Context
from ftreg.core.capabilities import FULL_PRECISION
from ftreg.core.errors import InputError
from ftreg.core.manifest import Parent, Producer
from ftreg.core.names import check_name
from ftreg.core.recipe import DataConfig, validate
from ftreg.core.requirements import Requirement
from ftreg.core.types import CHECKPOINT, Artifact, Example, Splits, Version
from ftreg.pipeline.inputs import open_data
from ftreg.pipeline.runs import Work, environment_of, full_config
from ftreg.registry import Staging

if TYPE_CHECKING:
    from ftreg.training import BaseConfig

_PACKAGES = ("torch", "transformers", "tokenizers", "safetensors")
REQUIRES = tuple(Requirement(package, "ftreg[train]") for package in _PACKAGES)
"""The distributions that the weights and the tokenizer depend on."""


def create_base_version(
    context: Context, name: str, data: Path, settings: Mapping[str, Any], *, seed: int = 0
) -> Version:
    """Create an untrained Llama and a tokenizer trained on ``data``, and register them as ``name``.

    Raises:
        RecipeError: ``settings`` do not describe a model, such as a hidden size that the heads do not divide.
        InputError: ``data`` cannot be used, or ``name`` is not a valid name.
    """
    # Brings torch, which a command that only mentions this module must not.
    from ftreg.training import BaseConfig

    check_name(name)
    config = validate(BaseConfig, settings, where="init")
    if not data.is_file():
        raise InputError(
            "no such file", where=f"data: {data}", hint="Make one: `ftreg.api.data.write_stdlib('stdlib.jsonl')`"
        )
    with ExitStack() as stack:
        dataset, splits = open_data(context, stack, DataConfig(path=str(data.absolute()), validation=0.0))
        staging = stack.enter_context(context.registry.staging())
        creation = open_creation(config, seed, dataset.digest, splits)
        draft = creation.work.draft(creation.run(context, staging), staging)
        dataset.publish(context)
        return context.registry.publish(name, draft)


@dataclass(frozen=True)
class Creation:
    """The creation of an untrained base whose data is open.

    Attributes:
        work: What is recorded about it.
        config: The model's sizes.
        seed: Seed of the random weights.
        data: The texts to train the tokenizer on, under ``train``.
    """

    work: Work
    config: BaseConfig
    seed: int
    data: Splits

    def run(self, context: Context, staging: Staging) -> Artifact:
        """Train the tokenizer, create the model, write both into ``staging.files``, and describe them."""
        from ftreg.models.facts import describe
        from ftreg.training import create_base

        texts = [_text(example) for example in self.data.train]
        context.progress.say(f"training a tokenizer on {len(texts)} texts")
        create_base(staging.files, texts, self.config, self.seed)
        return Artifact(CHECKPOINT, facts=describe(staging.files), capabilities=frozenset({FULL_PRECISION}))


def open_creation(config: BaseConfig, seed: int, dataset: str, data: Splits) -> Creation:
    """Describe the creation of a base with a tokenizer trained on ``data``, whose digest is ``dataset``."""
    version = metadata.version("ftreg")
    producer = Producer("init", "llama", "core", "ftreg", version, {**full_config(config), "seed": seed})
    return Creation(Work(producer, (Parent("dataset", dataset),), environment_of(REQUIRES)), config, seed, data)


def _text(example: Example) -> str:
    return example.text if example.text is not None else "\n".join(turn.content for turn in example.messages)
