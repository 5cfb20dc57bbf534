"""What ftreg assumes of bitsandbytes: a failing test names the function of ftreg.compat.bitsandbytes to mend."""

from __future__ import annotations

import contextlib
import inspect

import pytest
import torch
from bitsandbytes import functional
from bitsandbytes.nn import Linear4bit, Linear8bitLt
from torch import nn

from ftreg.compat.bitsandbytes import CPU_WIDTH_MULTIPLE, keep_training_layout, quantized_layers, round_trip


def four_bit_layer(weight: torch.Tensor, quant_type: str = "nf4", *, double_quant: bool = True) -> Linear4bit:
    """A layer of bitsandbytes that holds ``weight`` in 4 bits, on the CPU."""
    layer = Linear4bit(
        weight.shape[1],
        weight.shape[0],
        bias=False,
        compute_dtype=torch.float32,
        compress_statistics=double_quant,
        quant_type=quant_type,
    )
    layer.load_state_dict({"weight": weight})
    return layer.to("cpu").eval()


@pytest.mark.parametrize("quant_type", ["nf4", "fp4"])
@pytest.mark.parametrize("double_quant", [False, True])
def test_round_trip(quant_type, double_quant):
    """A weight's round trip has exactly the values that a 4-bit layer multiplies with."""
    torch.manual_seed(0)
    weight = torch.randn(64, 128)
    layer = four_bit_layer(weight, quant_type, double_quant=double_quant)
    with torch.no_grad():
        seen = layer(torch.eye(128)).T
    assert torch.equal(seen, round_trip(weight, quant_type=quant_type, double_quant=double_quant))
    assert not torch.equal(seen, weight)


def test_keep_training_layout():
    """A layer that would repack its weight for the CPU's bfloat16 kernels keeps it, and repacks it otherwise."""
    kept, repacked = (four_bit_layer(torch.randn(64, 128)) for _ in range(2))
    for layer in (kept, repacked):
        assert hasattr(layer, "support_avx512bf16_for_cpu"), "bitsandbytes has renamed the switch"
        layer.support_avx512bf16_for_cpu = True  # as on a CPU that has these kernels
    keep_training_layout(nn.Sequential(kept))
    for layer in (kept, repacked):
        # Where the kernels do not exist, the repacked layer fails after it was repacked.
        with torch.no_grad(), contextlib.suppress(RuntimeError, NotImplementedError):
            layer(torch.ones(2, 128))
    assert not getattr(kept.weight.quant_state, "packing_format_for_cpu", False)
    assert repacked.weight.quant_state.packing_format_for_cpu


def test_cpu_width_multiple():
    """The CPU layout packs as many output features together as ftreg checks for."""
    packing = inspect.signature(functional._convert_weight_packed_for_cpu)
    assert packing.parameters["block_n"].default == CPU_WIDTH_MULTIPLE


def test_quantized_layers():
    """Layers in 8 and in 4 bits are found, others are not."""
    model = nn.Sequential(nn.Linear(8, 8), Linear8bitLt(8, 8), Linear4bit(64, 64))
    assert quantized_layers(model) == ["1", "2"]
