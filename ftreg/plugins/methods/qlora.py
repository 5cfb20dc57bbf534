"""Method ``qlora``: trains LoRA on a base that is held in 4 bits (Dettmers et al., "QLoRA", arXiv:2305.14314)."""

from __future__ import annotations

from dataclasses import replace

import transformers

from ftreg.core.types import Artifact, TrainJob
from ftreg.models.quantization import BITSANDBYTES, check_widths, four_bits
from ftreg.plugins.methods.config import QloraConfig
from ftreg.plugins.methods.lora import add_lora
from ftreg.training import compute_dtype, fit, load_model, resolve_device, save_adapter


def train(job: TrainJob) -> Artifact:
    """Train low-rank updates on the quantized base and save them as an adapter.

    The quantization is recorded in the facts, so that the adapter can be loaded on an equally quantized base.

    Raises:
        InputError: A layer of the base cannot be computed in 4 bits on a CPU.
    """
    assert isinstance(job.config, QloraConfig)
    if resolve_device(job.train).type == "cpu":
        check_widths(job.base, hint="Use method lora, or train on a GPU.")
    dtype = compute_dtype(job.train)
    quantization = four_bits(job.config.quant_type, double_quant=job.config.double_quant, dtype=dtype)
    model = load_model(job, dtype=dtype, quantization_config=transformers.BitsAndBytesConfig(**quantization))
    model = add_lora(model, job.config, where="qlora")
    measured = fit(job, model)
    artifact = save_adapter(job, model, measured, base_quantization=quantization)
    return replace(artifact, requires=(BITSANDBYTES,))
