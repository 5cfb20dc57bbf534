"""PEFT adapters: checked for a merge, loaded onto a base, and combined."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftConfig, PeftModel, get_peft_model, get_peft_model_state_dict, load_peft_weights

from ftreg.compat.peft import reset_scaling
from ftreg.core.errors import InfeasiblePlan, InputError
from ftreg.models.quiet import loading, quiet
from ftreg.plugins.post.config import MergeConfig

Transform = Callable[[str, torch.Tensor], torch.Tensor]
"""Changes a weight of the base, given its name in the model, before anything is added to it."""

Adapters = Sequence[tuple[Path, float]]
"""Folders of adapters with their weights in the combination."""

# Initializations that leave the base as it is stored. Others (PiSSA, OLoRA, ...) take a part out of it.
_NEUTRAL_INIT = (True, False, "gaussian", "eva", "orthogonal")


def check_mergeable(adapters: Adapters) -> None:
    """Raise ``InfeasiblePlan`` for adapters whose type, or whose combination, cannot be merged."""
    for folder, weight in adapters:
        config = read_peft_config(folder)
        if config.is_prompt_learning:
            raise InfeasiblePlan(
                f"a {config.peft_type.value} adapter cannot be merged: it adds virtual tokens, not weights",
                where=str(folder),
                hint="Serve it as an adapter, or train with method lora.",
            )
        if (len(adapters) > 1 or weight != 1.0) and (not isinstance(config, LoraConfig) or config.use_dora):
            name = "DoRA" if isinstance(config, LoraConfig) else config.peft_type.value
            raise InfeasiblePlan(
                f"PEFT can weight and combine only LoRA adapters; this one is {name}", where=str(folder)
            )


def read_peft_config(folder: Path) -> Any:
    """Read an adapter's configuration; raise ``InputError`` if the folder has none that PEFT knows."""
    with loading("the adapter's configuration", folder):
        return PeftConfig.from_pretrained(str(folder))


def changes_base(folder: Path) -> bool:
    """Return whether loading the adapter changes the base, as PiSSA does, which moves a part of it into the adapter."""
    return getattr(read_peft_config(folder), "init_lora_weights", True) not in _NEUTRAL_INIT


def attach(model: Any, adapters: Adapters, config: MergeConfig, where: Path, *, streamed: bool) -> PeftModel:
    """Load adapters into a base model and combine them into one.

    Args:
        model: The base; it is changed.
        adapters: What to load; checked by ``check_mergeable``.
        config: How several adapters are combined.
        where: The base's folder, for errors.
        streamed: Whether the model's weights are placeholders, which must not be written into.

    Raises:
        InputError: The adapters belong to another base, or their files are damaged.
    """
    names = [f"adapter_{index}" for index in range(len(adapters))]
    with quiet(), _peft_errors(where):
        peft_model: Any = None
        for name, (folder, _) in zip(names, adapters, strict=True):
            settings = read_peft_config(folder)
            settings.inference_mode = True
            if peft_model is None:
                peft_model = get_peft_model(model, settings, adapter_name=name, low_cpu_mem_usage=streamed)
            report = peft_model.load_adapter(str(folder), name, torch_device="cpu", low_cpu_mem_usage=streamed)
            if report.unexpected_keys:
                raise ValueError(f"the base has no place for {report.unexpected_keys[0]}")
            expected = get_peft_model_state_dict(peft_model, adapter_name=name, save_embedding_layers=False)
            lacking = sorted(expected.keys() - load_peft_weights(str(folder), device="cpu").keys())
            if lacking:
                raise ValueError(f"the adapter's file lacks {lacking[0]}")
        if len(adapters) > 1 or adapters[0][1] != 1.0:
            _combine(peft_model, names, [weight for _, weight in adapters], config)
    return peft_model


def _combine(model: Any, names: Sequence[str], weights: Sequence[float], config: MergeConfig) -> None:
    """Make one adapter of several, and activate it."""
    density = config.density if config.combination not in ("cat", "svd", "linear") else None
    model.add_weighted_adapter(
        list(names), list(weights), "combined", combination_type=config.combination, density=density
    )
    reset_scaling(model, "combined")
    model.set_adapter("combined")


@contextmanager
def _peft_errors(base: Path) -> Iterator[None]:
    """Turn what PEFT raises for an adapter that does not fit its base into an ``InputError``."""
    try:
        yield
    except (ValueError, RuntimeError, KeyError) as error:
        if isinstance(error, torch.OutOfMemoryError | NotImplementedError):
            raise
        missing = isinstance(error, KeyError)  # PEFT looks modules_to_save up by name
        reason = f"the adapter's file lacks {error}" if missing else " ".join(str(error).split())[:300]
        raise InputError(
            f"the adapter does not fit this base: {reason}",
            where=str(base),
            hint="It was trained on a different base, or its files are damaged.",
        ) from error
