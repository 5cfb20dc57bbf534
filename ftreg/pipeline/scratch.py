"""Scratch: creates and registers an untrained base model, to be pre-trained with the ``full`` method."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from ftreg.context import Context
from ftreg.core.capabilities import FULL_PRECISION
from ftreg.core.errors import InputError
from ftreg.core.manifest import Parent, Producer
from ftreg.core.names import check_name
from ftreg.core.recipe import DataConfig, validate
from ftreg.core.types import CHECKPOINT, Example, Version
from ftreg.pipeline.inputs import open_data
from ftreg.pipeline.runs import full_config
from ftreg.registry import Draft


def create_base_version(
    context: Context, name: str, data: Path, settings: Mapping[str, Any], *, seed: int = 0
) -> Version:
    """Create an untrained Llama and a tokenizer trained on ``data``, and register them as ``name``.

    Raises:
        RecipeError: ``settings`` do not describe a model, such as a hidden size that the heads do not divide.
        InputError: ``data`` cannot be used, or ``name`` is not a valid name.
    """
    # Brings torch, which a command that only mentions this module must not.
    from ftreg.models.facts import describe
    from ftreg.training import BaseConfig, create_base

    check_name(name)
    config = validate(BaseConfig, settings, where="init")
    if not data.is_file():
        raise InputError(
            "no such file", where=f"data: {data}", hint="Make one: `ftreg.api.data.write_stdlib('stdlib.jsonl')`"
        )
    producer = Producer("init", "llama", "core", "ftreg", "", {**full_config(config), "seed": seed})
    with ExitStack() as stack:
        dataset, splits = open_data(context, stack, DataConfig(path=str(data.absolute()), validation=0.0))
        staging = stack.enter_context(context.registry.staging())
        context.progress.say(f"training a tokenizer on {len(splits.train)} texts")
        create_base(staging.files, [_text(example) for example in splits.train], config, seed)
        draft = Draft(
            folder=staging.files,
            kind=CHECKPOINT,
            parents=(Parent("dataset", dataset.digest),),
            producer=producer,
            capabilities=[FULL_PRECISION],
            facts=describe(staging.files),
        )
        dataset.publish(context)
        return context.registry.publish(name, draft)


def _text(example: Example) -> str:
    return example.text if example.text is not None else "\n".join(turn.content for turn in example.messages)
