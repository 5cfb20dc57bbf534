"""Models in 8 and 4 bits: how they are described, which models fit, and what their weights become."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import BitsAndBytesConfig

from ftreg.compat.bitsandbytes import CPU_WIDTH_MULTIPLE, quantized_layers, round_trip
from ftreg.compat.transformers import computes_quantized, replace_quantized_layers
from ftreg.core.errors import InfeasiblePlan, InputError
from ftreg.core.manifest import Json
from ftreg.core.requirements import Requirement
from ftreg.core.types import Source
from ftreg.models.matrices import Coverage, coverage, matrices
from ftreg.models.quiet import quiet
from ftreg.models.skeleton import load_skeleton
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


def check_quantizable(folder: Path, settings: BitsAndBytesConfig, *, hint: str) -> None:
    """Raise ``InfeasiblePlan`` if bitsandbytes can quantize nothing of a model, or the model cannot be computed then.

    Args:
        folder: A checkpoint; only its configuration is read.
        settings: How it would be quantized.
        hint: What the user can do instead.
    """
    model = _quantized_skeleton(folder, settings)
    name = type(model).__name__
    if not computes_quantized(model):
        raise InfeasiblePlan(
            f"{name} computes with the weights of its layers itself, and cannot with quantized ones", hint=hint
        )
    if not quantized_layers(model):
        raise InfeasiblePlan(
            f"bitsandbytes can quantize nothing in {name}: it replaces PyTorch's own linear layers, and this model has "
            "none",
            hint=hint,
        )


def check_storable(folder: Path, settings: BitsAndBytesConfig, *, hint: str) -> None:
    """Raise ``InfeasiblePlan`` if transformers cannot load the model once its weights are stored in 8 or 4 bits.

    It takes the stacked experts of some families, such as Llama 4, apart before it loads stored weights, and not before
    it quantizes: what it saves then lacks the weights that it looks for.

    Args:
        folder: A checkpoint; only its configuration is read.
        settings: How it would be quantized.
        hint: What the user can do instead.
    """
    made, loaded = (_quantized_skeleton(folder, settings, stored=stored) for stored in (False, True))
    if apart := dict(loaded.named_modules()).keys() - dict(made.named_modules()).keys():
        raise InfeasiblePlan(
            f"transformers cannot load {type(made).__name__} with weights that are stored in 8 or 4 bits: bitsandbytes "
            f"leaves its stacked experts in full precision, and transformers looks for {min(apart)}",
            where=str(folder),
            hint=hint,
        )


def quantized_weights(model: Any) -> Coverage:
    """Count the weights of a loaded model that are held in 8 or 4 bits."""
    return coverage(matrices(model), {f"{name}.weight" for name in quantized_layers(model)})


def check_widths(folder: Path, settings: BitsAndBytesConfig, *, hint: str) -> None:
    """Raise ``InputError`` for a model whose layers bitsandbytes' 4-bit CPU kernels cannot compute.

    Args:
        folder: A checkpoint; only its configuration is read.
        settings: How it would be quantized.
        hint: What the user can do instead.
    """
    model = _quantized_skeleton(folder, settings)
    for name in quantized_layers(model):
        width = model.get_submodule(name).out_features
        if width % CPU_WIDTH_MULTIPLE:
            raise InputError(
                f"layer {name} has {width} output features; on a CPU, 4-bit layers need "
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
        known = matrices(load_skeleton(folder))
        self._transposed = {name for name, matrix in known.items() if matrix.transposed}
        quantized = quantized_layers(_quantized_skeleton(folder, self._settings))
        self._names = frozenset(f"{name}.weight" for name in quantized)

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


def _quantized_skeleton(folder: Path, settings: BitsAndBytesConfig, *, stored: bool = False) -> Any:
    """Build the model in ``folder`` as if it were quantized while loading, or stored quantized, without its weights."""
    model = load_skeleton(folder)
    with quiet():
        replace_quantized_layers(model, settings, stored=stored)
    return model
