"""PiSSA and OLoRA: starts of LoRA that move a part of each weight into the adapter, undone when training is over.

PiSSA (Meng et al., arXiv:2404.02948) starts with the weight's principal singular vectors, OLoRA (Büyükakyüz,
arXiv:2406.01775) with its QR decomposition. Training then works on ``W - s B0 A0 + s B A``. As an update of the base as
it is stored, that is ``s [B, -B0] [A; A0]``: a plain LoRA of twice the rank, which needs no changed base.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from ftreg.compat.peft import lora_layers
from ftreg.core.errors import RecipeError

MOVING = ("pissa", "olora")
"""The starts that move a part of the base into the adapter."""

_ADAPTER = "default"

Factors = Mapping[str, tuple[torch.Tensor, torch.Tensor]]
"""The factors A (rank, in) and B (out, rank) of each layer's update, by the layer's name."""


def start_factors(model: Any, where: str) -> Factors:
    """Return copies of the factors that training starts with.

    Args:
        model: A model that PEFT has just wrapped.
        where: The recipe's section of the method, for errors.

    Raises:
        RecipeError: The rank is larger than a side of a layer's matrix.
    """
    factors: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
    for name, layer in lora_layers(model):
        first, second = layer.lora_A[_ADAPTER].weight, layer.lora_B[_ADAPTER].weight
        if len(first) < layer.r[_ADAPTER]:
            raise RecipeError(
                f"{name} is a matrix of rank {len(first)}, which cannot start with rank {layer.r[_ADAPTER]}",
                where=f"{where}.rank",
                hint=f"Set a rank of at most {len(first)}, or init: kaiming.",
            )
        factors[name] = first.detach().clone(), second.detach().clone()
    return factors


@torch.no_grad()
def make_plain(model: Any, start: Factors) -> None:
    """Change a trained adapter into a plain LoRA adapter of the base as it is stored; the model can then only be saved.

    Args:
        model: The trained model.
        start: What ``start_factors`` returned before training.
    """
    for name, layer in lora_layers(model):
        first, second = layer.lora_A[_ADAPTER], layer.lora_B[_ADAPTER]
        first.weight = nn.Parameter(torch.cat([first.weight, start[name][0]]))
        second.weight = nn.Parameter(torch.cat([second.weight, -start[name][1]], dim=1))
    config = model.peft_config[_ADAPTER]
    config.lora_alpha *= math.sqrt(2) if config.use_rslora else 2
    config.r *= 2
    config.init_lora_weights = True
