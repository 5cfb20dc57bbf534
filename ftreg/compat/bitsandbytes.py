"""bitsandbytes: its 4-bit layers on CPUs, and the exact values that they compute with."""

from __future__ import annotations

from typing import Any

import torch

CPU_WIDTH_MULTIPLE = 32
"""Output features that the 4-bit inference kernels for CPUs pack together; other widths fail in them."""


def keep_training_layout(model: Any) -> None:
    """Prevent 4-bit layers from switching to their CPU layout for inference.

    On CPUs with AVX-512 BF16 they switch at the first evaluation, and stay so: they round to bfloat16, fail
    if the input features are not a multiple of the block size, and pass no gradients, without an error.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


def round_trip(weight: torch.Tensor, *, quant_type: str, double_quant: bool) -> torch.Tensor:
    """Quantize a weight to 4 bits and back, to the values that a ``Linear4bit`` of this weight computes with.

    Args:
        weight: A contiguous matrix of shape (out, in), in the layer's compute dtype.
        quant_type: ``nf4`` or ``fp4``.
        double_quant: Whether the scales are quantized too.
    """
    from bitsandbytes import functional

    packed, state = functional.quantize_4bit(
        weight,
        blocksize=64,  # the layers' default, which transformers keeps
        compress_statistics=double_quant,
        quant_type=quant_type,
    )
    restored: torch.Tensor = functional.dequantize_4bit(packed, state)
    return restored


def quantized_layers(model: Any) -> list[str]:
    """Return the names of the layers that bitsandbytes computes in 8 or 4 bits."""
    from bitsandbytes import nn

    kinds = (nn.Linear8bitLt, nn.Linear4bit)
    return [name for name, module in model.named_modules() if isinstance(module, kinds)]
