"""Method ``lora``: low-rank updates of linear layers (Hu et al., "LoRA", arXiv:2106.09685)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

import peft
from pydantic import Field
from torch import nn
from transformers.pytorch_utils import Conv1D

from ftreg.core.errors import RecipeError
from ftreg.core.recipe import Config
from ftreg.core.types import Artifact, TrainJob
from ftreg.training import compute_dtype, fit, load_model, quiet, save_adapter

ALL_LINEAR = "all-linear"


class LoraConfig(Config):
    """What can be set for LoRA."""

    rank: int = Field(16, gt=0, description="rank of the update: more is more to learn, and more to store")
    alpha: float = Field(32, gt=0, description="scale of the update, which is multiplied by alpha / rank")
    dropout: float = Field(0.0, ge=0, lt=1, description="share of the update's inputs that is dropped in training")
    target_modules: Literal["all-linear"] | tuple[str, ...] = Field(
        "all-linear",
        description="names of the layers to update, such as [q_proj, v_proj]; all-linear: all but the head",
    )
    modules_to_save: tuple[str, ...] = Field((), description="layers to train in full and store with the adapter")
    bias: Literal["none", "all", "lora_only"] = Field("none", description="which bias vectors to train as well")
    rslora: bool = Field(False, description="scale by alpha / sqrt(rank), better at high ranks (arXiv:2312.03732)")
    dora: bool = Field(False, description="learn magnitude and direction apart (arXiv:2402.09353); slower")
    # PiSSA and OLoRA are not here: they change the base, to which the adapter then no longer fits.
    init: Literal["kaiming", "gaussian", "orthogonal"] = Field(
        "kaiming", description="how the update starts; with all of them the model starts as the base"
    )


def train(job: TrainJob) -> Artifact:
    """Train low-rank updates and save them as an adapter."""
    assert isinstance(job.config, LoraConfig)
    model = add_lora(load_model(job, dtype=compute_dtype(job.train)), job.config)
    measured = fit(job, model)
    return save_adapter(job, model, measured)


def add_lora(model: Any, config: LoraConfig, *, where: str = "lora") -> Any:
    """Wrap ``model`` with fresh LoRA layers; the rest of it is frozen. ``where`` is the configuration's name in errors.

    Raises:
        RecipeError: A target, or a module to save, is no layer of the model, or PEFT refuses the settings.
    """
    layers = linear_layers(model)
    if config.target_modules != ALL_LINEAR:
        _check_names(config.target_modules, layers, f"{where}.target_modules")
    _check_names(config.modules_to_save, dict(model.named_modules()), f"{where}.modules_to_save")
    settings = peft.LoraConfig(
        task_type="CAUSAL_LM",
        r=config.rank,
        lora_alpha=config.alpha,
        lora_dropout=config.dropout,
        target_modules=ALL_LINEAR if config.target_modules == ALL_LINEAR else list(config.target_modules),
        modules_to_save=list(config.modules_to_save) or None,
        bias=config.bias,
        use_rslora=config.rslora,
        use_dora=config.dora,
        init_lora_weights=True if config.init == "kaiming" else config.init,
        fan_in_fan_out=any(isinstance(layer, Conv1D) for layer in layers.values()),
    )
    with quiet():
        try:
            return peft.get_peft_model(model, settings)
        except ValueError as error:
            raise RecipeError(str(error), where=where) from error


def linear_layers(model: Any) -> dict[str, nn.Module]:
    """The layers that LoRA can update, by their full names."""
    kinds = (nn.Linear, nn.Embedding, Conv1D)
    return {name: module for name, module in model.named_modules() if isinstance(module, kinds)}


def _check_names(names: Iterable[str], modules: dict[str, nn.Module], where: str) -> None:
    """Raise ``RecipeError`` for a name that is neither a module's full name nor the end of one."""
    for name in names:
        if not any(full == name or full.endswith(f".{name}") for full in modules):
            known = sorted({last for full in modules if not (last := full.rsplit(".", 1)[-1]).isdigit() and last})
            raise RecipeError(
                f"the model has no layer called {name!r}", where=where, hint=f"It has {', '.join(known)}."
            )
