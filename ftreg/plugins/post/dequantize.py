"""The base as quantized training saw it: weights that went through 4 bits and back, exactly as bitsandbytes does it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import bitsandbytes
import torch
from transformers import BitsAndBytesConfig
from transformers.quantizers import AutoHfQuantizer

from ftreg.plugins.post.skeleton import linear_weights, load_skeleton
from ftreg.training import quiet


class RoundTrip:
    """Quantizes and dequantizes the weights that a quantized base holds in 4 bits, and leaves the others.

    Args:
        folder: The base, in full precision.
        quantization: How it was quantized, as ``BitsAndBytesConfig`` takes it. The weights that are quantized are those
            in the compute dtype, as when the adapter was trained.
    """

    def __init__(self, folder: Path, quantization: Mapping[str, Any]) -> None:
        self._settings = BitsAndBytesConfig(**quantization)
        model = load_skeleton(folder)
        self._turned = {name for name, turned in linear_weights(model).items() if turned}
        with quiet():
            AutoHfQuantizer.from_config(self._settings).preprocess_model(model, device_map={"": "cpu"})
        self.names = frozenset(
            f"{name}.weight" for name, each in model.named_modules() if isinstance(each, bitsandbytes.nn.Linear4bit)
        )

    def __call__(self, name: str, weight: torch.Tensor) -> torch.Tensor:
        """What the weight called ``name`` in the model becomes."""
        if name not in self.names:
            return weight
        # GPT-2's Conv1D stores (in, out); transformers turns it before it is cut into blocks.
        turned = weight.T if name in self._turned else weight
        packed, state = bitsandbytes.functional.quantize_4bit(
            turned.to(self._settings.bnb_4bit_compute_dtype).contiguous(),
            blocksize=64,
            compress_statistics=self._settings.bnb_4bit_use_double_quant,
            quant_type=self._settings.bnb_4bit_quant_type,
        )
        seen = bitsandbytes.functional.dequantize_4bit(packed, state).to(weight.dtype)
        return seen.T.contiguous() if name in self._turned else seen
