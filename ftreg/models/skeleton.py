"""Skeletons: a model's modules without its weights, which tell what each stored tensor is."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from ftreg.compat.transformers import caches_keys_and_values, loaded_as
from ftreg.core.errors import InfeasiblePlan
from ftreg.models.architectures import check_causal
from ftreg.models.quiet import loading


def load_skeleton(folder: Path) -> Any:
    """Build the model in ``folder`` on PyTorch's meta device: with shapes, and without values.

    Raises:
        InputError: The folder has no configuration of a causal language model.
    """
    check_causal(folder)
    with loading("the model's configuration", folder):
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(config, dtype=torch.float32)


def require_keys_and_values(folder: Path, *, needed_by: str) -> None:
    """Raise ``InfeasiblePlan`` if the model in ``folder`` does not remember earlier tokens as keys and values."""
    model = load_skeleton(folder)
    if not caches_keys_and_values(model):
        raise InfeasiblePlan(
            f"{needed_by} needs a model that remembers earlier tokens as keys and values in all of its layers, which "
            f"{type(model).__name__} does not"
        )


def model_names(model: Any, stored: Iterable[str]) -> dict[str, str]:
    """Map names on disk to names in the model.

    Tensors that are not parameters of the model, or that it converts while loading, are left out.
    """
    return {each: found.name for each, found in loaded_as(model, stored).items() if not found.converted}


def joined_weights(model: Any, stored: Iterable[str]) -> dict[str, list[str]]:
    """Map the weights that the model joins from several stored tensors, such as those of experts, to these tensors."""
    joined: dict[str, list[str]] = {}
    for each, found in loaded_as(model, stored).items():
        if found.converted:
            joined.setdefault(found.name, []).append(each)
    return {name: parts for name, parts in joined.items() if len(parts) > 1}
