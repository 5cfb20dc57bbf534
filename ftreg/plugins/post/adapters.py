"""PEFT adapters: loaded onto a base and combined, with PEFT's errors made clear."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel, get_peft_model, get_peft_model_state_dict, load_peft_weights

from ftreg.compat.peft import reset_scaling
from ftreg.core.errors import FtregError, InfeasiblePlan, InputError
from ftreg.models.quiet import quiet
from ftreg.plugins.post.config import MergeConfig
from ftreg.plugins.post.mergeable import Adapters, moved_by, read_peft_config

Transform = Callable[[str, torch.Tensor], torch.Tensor]
"""Changes a weight of the base, given its name in the model, before anything is added to it."""


def attach(model: Any, adapters: Adapters, config: MergeConfig, where: Path, *, streamed: bool, seed: int) -> PeftModel:
    """Load adapters into a base model and combine them into one.

    Args:
        model: The base; it is changed.
        adapters: What to load; checked by ``check_mergeable``.
        config: How several adapters are combined.
        where: The base's folder, for errors.
        streamed: Whether the model's weights are placeholders, which must not be read or written. What the adapters'
            initialization moves out of the base then has to be taken out of it later.
        seed: Seed of the combinations that drop values at random.

    Raises:
        InputError: The adapters belong to another base, or their files are damaged.
        InfeasiblePlan: The adapters cannot be combined in this way.
    """
    names = [f"adapter_{index}" for index in range(len(adapters))]
    with quiet(), _misfits(where):
        peft_model: Any = None
        for name, (folder, _) in zip(names, adapters, strict=True):
            settings = read_peft_config(folder)
            settings.inference_mode = True
            if streamed and moved_by(folder) is not None:
                settings.init_lora_weights = True
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
        _combine(peft_model, names, [weight for _, weight in adapters], config, seed)
    return peft_model


@contextmanager
def merging(module: str) -> Iterator[None]:
    """Turn what PEFT raises while it merges ``module`` into clear errors, and silence what it prints.

    Raises:
        FtregError: The result is not finite, or the base has no place for it.
        InfeasiblePlan: PEFT cannot merge modules of this type.
    """
    try:
        with quiet():
            yield
    except ValueError as error:
        raise FtregError(f"the merge failed: {error}") from error
    except RuntimeError as error:  # NotImplementedError is one
        if isinstance(error, torch.OutOfMemoryError):
            raise
        raise InfeasiblePlan(f"PEFT cannot merge {module}: {error}") from error


def _combine(model: Any, names: Sequence[str], weights: Sequence[float], config: MergeConfig, seed: int) -> None:
    """Make one adapter of several, and activate it."""
    density = config.density if config.combination not in ("cat", "svd", "linear") else None
    torch.manual_seed(seed)  # dare drops values at random
    try:
        with quiet():
            model.add_weighted_adapter(
                list(names), list(weights), "combined", combination_type=config.combination, density=density
            )
    except (ValueError, RuntimeError) as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        raise InfeasiblePlan(
            f"PEFT cannot combine these adapters by {config.combination}: {error}",
            hint="The combinations cat and svd take adapters of any rank.",
        ) from error
    reset_scaling(model, "combined")
    model.set_adapter("combined")


@contextmanager
def _misfits(base: Path) -> Iterator[None]:
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
