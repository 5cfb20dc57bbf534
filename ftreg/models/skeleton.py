"""Skeletons: a model's modules without its weights, which tell what each stored tensor is."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.pytorch_utils import Conv1D

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


def model_names(model: Any, stored: Iterable[str]) -> dict[str, str]:
    """Map names on disk to names in the model; old checkpoints omit the base model's prefix.

    Tensors that are not parameters of the model, or that it converts while loading, are left out.
    """
    known = dict(model.named_parameters(remove_duplicate=False))
    prefix = f"{model.base_model_prefix}."
    return {name: each for name in stored for each in (prefix + name, name) if each in known}


def linear_weights(model: Any) -> dict[str, bool]:
    """Map the weights of all linear layers, except the output head, to whether they are transposed.

    A transposed weight is stored as (in, out), as in GPT-2's ``Conv1D``, instead of (out, in).
    """
    head = model.get_output_embeddings()
    return {
        f"{name}.weight": isinstance(module, Conv1D)
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear | Conv1D) and module is not head
    }
