"""Method ``lora``: trains low-rank updates of linear layers (Hu et al., "LoRA", arXiv:2106.09685)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import peft
from torch import nn
from transformers.pytorch_utils import Conv1D

from ftreg.compat.peft import unsuitable_layers
from ftreg.core.errors import RecipeError
from ftreg.core.types import Artifact, TrainJob
from ftreg.models.quiet import quiet
from ftreg.plugins.methods.config import LoraConfig
from ftreg.plugins.methods.starts import MOVING, make_plain, start_factors
from ftreg.training import compute_dtype, fit, load_model, save_adapter

ALL_LINEAR = "all-linear"


def train(job: TrainJob) -> Artifact:
    """Train low-rank updates and save them as an adapter."""
    assert isinstance(job.config, LoraConfig)
    model = add_lora(load_model(job, dtype=compute_dtype(job.train)), job.config)
    start = start_factors(model, "lora") if job.config.init in MOVING else None
    measured = fit(job, model)
    if start is not None:
        make_plain(model, start)
    return save_adapter(job, model, measured)


def add_lora(model: Any, config: LoraConfig, *, where: str = "lora") -> Any:
    """Wrap a model with new LoRA layers, and freeze everything else.

    Args:
        model: The base.
        config: The settings.
        where: The recipe's section that holds them, for errors.

    Raises:
        RecipeError: The model has no layer of a configured name, or PEFT refuses the settings.
    """
    layers = linear_layers(model)
    if config.target_modules != ALL_LINEAR:
        _check_names(config.target_modules, layers, f"{where}.target_modules")
    _check_names(config.modules_to_save, dict(model.named_modules()), f"{where}.modules_to_save")
    tied = tied_embeddings(model)
    if config.target_modules != ALL_LINEAR and _named(config.target_modules, tied):
        raise RecipeError(
            "the input embedding and the output head of this model share one tensor, which LoRA would change twice",
            where=f"{where}.target_modules",
            hint=f"Remove {' and '.join(sorted(last_part(name) for name in tied))}, or add it to modules_to_save.",
        )
    transposed = any(isinstance(layer, Conv1D) for layer in layers.values())
    if transposed and config.init == "olora":
        raise RecipeError(
            "PEFT's olora does not fit Conv1D layers, which this model has", where=f"{where}.init", hint="Use pissa."
        )
    settings = peft.LoraConfig(
        task_type="CAUSAL_LM",
        r=config.rank,
        lora_alpha=config.alpha,
        lora_dropout=config.dropout,
        target_modules=ALL_LINEAR if config.target_modules == ALL_LINEAR else list(config.target_modules),
        exclude_modules=(unsuitable_layers(model) or None) if config.target_modules == ALL_LINEAR else None,
        modules_to_save=list(config.modules_to_save) or None,
        bias=config.bias,
        use_rslora=config.rslora,
        use_dora=config.dora,
        init_lora_weights=True if config.init == "kaiming" else config.init,
        fan_in_fan_out=transposed,
        ensure_weight_tying=_named(config.modules_to_save, tied),
    )
    with quiet():
        try:
            return peft.get_peft_model(model, settings)
        except ValueError as error:
            raise RecipeError(str(error), where=where) from error


def linear_layers(model: Any) -> dict[str, nn.Module]:
    """Return the layers that LoRA can update, by their full names."""
    kinds = (nn.Linear, nn.Embedding, Conv1D)
    return {name: module for name, module in model.named_modules() if isinstance(module, kinds)}


def tied_embeddings(model: Any) -> list[str]:
    """Return the full names of the input embedding and the output head if they are one tensor; else an empty list."""
    ends = model.get_input_embeddings(), model.get_output_embeddings()
    if ends[1] is None or ends[0].weight is not ends[1].weight:
        return []
    return [name for name, module in model.named_modules() if module in ends]


def last_part(name: str) -> str:
    """Return a module's own name, without those of the modules that contain it."""
    return name.rsplit(".", 1)[-1]


def _named(names: Iterable[str], modules: Iterable[str]) -> bool:
    """Return whether one of ``names`` is the full name of one of ``modules``, or the end of one."""
    return any(full == name or full.endswith(f".{name}") for name in names for full in modules)


def _check_names(names: Iterable[str], modules: Iterable[str], where: str) -> None:
    """Raise ``RecipeError`` for a name that matches none of ``modules``."""
    for name in names:
        if not _named([name], modules):
            known = sorted({last_part(full) for full in modules if full and not last_part(full).isdigit()})
            raise RecipeError(f"the model has no layer named {name!r}", where=where, hint=f"It has {', '.join(known)}.")
