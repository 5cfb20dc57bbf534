"""Skeletons: a model's modules without its weights, to know which tensor on disk is what."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.pytorch_utils import Conv1D

from ftreg.plugins.engines.loading import loading


def load_skeleton(folder: Path) -> Any:
    """The model in ``folder`` on PyTorch's meta device: shapes and no values."""
    with loading("the model's configuration", folder):
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(config, dtype=torch.float32)


def model_names(model: Any, stored: Iterable[str]) -> dict[str, str]:
    """Map names on disk to names in the model; old checkpoints leave the base model's prefix out.

    Tensors that are no parameters of the model, or that it converts while loading, are left out.
    """
    known = dict(model.named_parameters(remove_duplicate=False))
    prefix = f"{model.base_model_prefix}."
    return {name: each for name in stored for each in (prefix + name, name) if each in known}


def linear_weights(model: Any) -> dict[str, bool]:
    """The weights of linear layers but the output layer, each with whether it is stored as (in, out), as in GPT-2."""
    head = model.get_output_embeddings()
    return {
        f"{name}.weight": isinstance(module, Conv1D)
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear | Conv1D) and module is not head
    }
