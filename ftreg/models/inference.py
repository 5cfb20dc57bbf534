"""Loading a version to compute with it: a checkpoint, or an adapter over its base."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import AutoConfig, BitsAndBytesConfig

from ftreg.core.types import ADAPTER, Source
from ftreg.models.files import weight_bytes
from ftreg.models.loading import load_pretrained
from ftreg.models.quantization import base_quantization
from ftreg.models.quiet import loading


def load_version(source: Source, device: str, dtype: torch.dtype | None = None) -> Any:
    """Load a checkpoint, or an adapter over its base, to compute with it.

    Args:
        source: The version.
        device: A device, or ``auto``.
        dtype: As for ``load_for_inference``.

    Raises:
        InputError: The version's files, or its base's, cannot be loaded.
    """
    if source.kind != ADAPTER:
        return load_for_inference(source.path, device, None, dtype)
    model = load_for_inference(source.parent("base").path, device, base_quantization(source), dtype)
    with loading(f"{source.ref} (adapter)", source.path):
        return PeftModel.from_pretrained(model, source.path)


def load_for_inference(
    folder: Path, device: str, quantization: Mapping[str, Any] | None, dtype: torch.dtype | None = None
) -> Any:
    """Load a model to compute with it.

    Args:
        folder: A checkpoint.
        device: A device, or ``auto``.
        quantization: Quantize a full-precision checkpoint while loading, as ``four_bits`` describes it.
        dtype: Of the weights, unless they are quantized; by default float32 on CPUs, which compute little else well,
            and otherwise as they are stored.

    Raises:
        InputError: The files cannot be loaded.
    """
    device = _pick_device(device, folder)
    if quantization is not None:
        # The quantized values depend on the dtype that they are made from: it must be that of the training.
        dtype = getattr(torch, quantization.get("bnb_4bit_compute_dtype", "float32"))
        return load_pretrained(
            folder, device=device, dtype=dtype, quantization_config=BitsAndBytesConfig(**quantization)
        )
    with loading("the model's configuration", folder):
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
    if getattr(config, "quantization_config", None) is not None:
        return load_pretrained(folder, device=device, dtype="auto", config=config)
    fitting = torch.float32 if device == "cpu" else "auto"
    return load_pretrained(folder, device=device, dtype=dtype or fitting, config=config)


def _pick_device(device: str, folder: Path) -> str:
    """Resolve ``auto``: the GPU if the weights in ``folder`` fit in its free memory with room to work, else the CPU."""
    if device != "auto":
        return device
    if not torch.cuda.is_available():
        return "cpu"
    needed = weight_bytes(folder)
    return "cuda" if torch.cuda.mem_get_info()[0] > 1.3 * needed + (1 << 30) else "cpu"
