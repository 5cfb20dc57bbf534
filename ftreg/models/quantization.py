"""Bases in 4 bits: how they are described, which models fit, and what their weights become."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import BitsAndBytesConfig

from ftreg.compat.bitsandbytes import CPU_WIDTH_MULTIPLE, round_trip
from ftreg.compat.transformers import layers_in_four_bits
from ftreg.core.errors import InputError
from ftreg.core.manifest import Json
from ftreg.core.requirements import Requirement
from ftreg.core.types import Source
from ftreg.models.quiet import quiet
from ftreg.models.skeleton import linear_weights, load_skeleton
from ftreg.models.tensors import dtype_name

BITSANDBYTES = Requirement("bitsandbytes", "ftreg[train]")
"""What loading anything in 4 or 8 bits needs."""


def four_bits(quant_type: str, *, double_quant: bool, dtype: torch.dtype) -> dict[str, Json]:
    """Describe a 4-bit quantization as ``BitsAndBytesConfig`` takes it.

    Args:
        quant_type: ``nf4`` or ``fp4``.
        double_quant: Whether the scales are quantized too.
        dtype: What matrix products are computed in, and what the other weights are held in.
    """
    return {
        "load_in_4bit": True,
        "bnb_4bit_quant_type": quant_type,
        "bnb_4bit_use_double_quant": double_quant,
        "bnb_4bit_compute_dtype": dtype_name(dtype),
    }


def base_quantization(adapter: Source) -> dict[str, Any] | None:
    """Return how an adapter's base was quantized during training, as ``four_bits`` describes it; None if it was not."""
    found = adapter.manifest.facts.get("base_quantization")
    return dict(found) if found else None


def check_widths(folder: Path, *, hint: str) -> None:
    """Raise ``InputError`` for a model whose layers bitsandbytes' 4-bit CPU kernels cannot compute.

    Args:
        folder: A checkpoint; only its configuration is read.
        hint: What the user can do instead.
    """
    model = load_skeleton(folder)
    for name, transposed in linear_weights(model).items():
        width = model.get_parameter(name).shape[1 if transposed else 0]
        if width % CPU_WIDTH_MULTIPLE:
            raise InputError(
                f"layer {name.removesuffix('.weight')} has {width} output features; on a CPU, 4-bit layers need "
                f"a multiple of {CPU_WIDTH_MULTIPLE}",
                where=str(folder),
                hint=hint,
            )


class RoundTrip:
    """Turns weights into what training on a 4-bit base computed with: quantized, and back.

    Weights that stay in full precision in such a base are returned as they are.

    Args:
        folder: The base in full precision.
        quantization: How it was quantized, as ``four_bits`` describes it. What is quantized is the weight in the
            compute dtype, as during training.
    """

    def __init__(self, folder: Path, quantization: Mapping[str, Any]) -> None:
        self._settings = BitsAndBytesConfig(**quantization)
        model = load_skeleton(folder)
        self._transposed = {name for name, transposed in linear_weights(model).items() if transposed}
        with quiet():
            self._names = frozenset(f"{name}.weight" for name in layers_in_four_bits(model, self._settings))

    def __call__(self, name: str, weight: torch.Tensor) -> torch.Tensor:
        """Return the round trip of the weight called ``name`` in the model, in the weight's own dtype and shape."""
        if name not in self._names:
            return weight
        # transformers turns GPT-2's (in, out) matrices before bitsandbytes cuts them into blocks.
        matrix = weight.T if name in self._transposed else weight
        seen = round_trip(
            matrix.to(self._settings.bnb_4bit_compute_dtype).contiguous(),
            quant_type=self._settings.bnb_4bit_quant_type,
            double_quant=self._settings.bnb_4bit_use_double_quant,
        ).to(weight.dtype)
        return seen.T.contiguous() if name in self._transposed else seen
