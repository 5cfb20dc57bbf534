"""Method ``qlora``: trains LoRA on a base that is held in 4 bits (Dettmers et al., "QLoRA", arXiv:2305.14314)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from transformers import BitsAndBytesConfig

from ftreg.core.manifest import Json
from ftreg.core.types import Artifact, TrainJob
from ftreg.models.loading import check_computes
from ftreg.models.quantization import BITSANDBYTES, check_quantizable, check_widths, four_bits, quantized_weights
from ftreg.plugins.methods.config import QloraConfig
from ftreg.plugins.methods.lora import add_lora
from ftreg.training import compute_dtype, fit, load_model, resolve_device, save_adapter


def check(base: Path, config: QloraConfig) -> None:
    """Raise ``InfeasiblePlan`` if bitsandbytes can quantize nothing of the base, or it cannot be computed then."""
    settings = BitsAndBytesConfig(**_quantization(config, torch.float32))
    check_quantizable(base, settings, hint="Use method lora.")


def train(job: TrainJob) -> Artifact:
    """Train low-rank updates on the quantized base and save them as an adapter.

    The quantization, and how much of the base was quantized, are recorded in the facts, so that the adapter can be
    loaded on an equally quantized base.

    Raises:
        InputError: A layer of the base cannot be computed in 4 bits on a CPU.
    """
    assert isinstance(job.config, QloraConfig)
    dtype = compute_dtype(job.train)
    quantization = _quantization(job.config, dtype)
    settings = BitsAndBytesConfig(**quantization)
    if resolve_device(job.train).type == "cpu":
        check_widths(job.base, settings, hint="Use method lora, or train on a GPU.")
    model = load_model(job, dtype=dtype, quantization_config=settings)
    check_computes(model, "With 4-bit weights")
    quantized = quantized_weights(model)
    quantized.warn(job.progress, "quantized")
    model = add_lora(model, job.config, where="qlora")
    measured = fit(job, model)
    artifact = save_adapter(job, model, measured, base_quantization=quantization, quantized=quantized.facts())
    return replace(artifact, requires=(BITSANDBYTES,))


def _quantization(config: QloraConfig, dtype: torch.dtype) -> dict[str, Json]:
    """Describe how the base is quantized, as ``BitsAndBytesConfig`` takes it."""
    return four_bits(config.quant_type, double_quant=config.double_quant, dtype=dtype)
