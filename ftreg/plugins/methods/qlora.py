"""Method ``qlora``: LoRA on a base that is held in 4 bits (Dettmers et al., "QLoRA", arXiv:2305.14314)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
import transformers
from torch import nn
from transformers.pytorch_utils import Conv1D

from ftreg.core.errors import InputError
from ftreg.core.manifest import Json
from ftreg.core.requirements import Requirement
from ftreg.core.types import Artifact, TrainJob
from ftreg.plugins.methods.config import QloraConfig
from ftreg.plugins.methods.lora import add_lora
from ftreg.training import compute_dtype, fit, load_model, quiet, resolve_device, save_adapter

_BITSANDBYTES = Requirement("bitsandbytes", "ftreg[train]")
_CPU_MULTIPLE = 32
"""Output features that bitsandbytes packs together for inference on CPUs; it cannot infer with other widths there."""


def train(job: TrainJob) -> Artifact:
    """Train low-rank updates on the quantized base and save them as an adapter.

    The facts hold the quantization, so that whoever uses the adapter can build the same base again.
    """
    assert isinstance(job.config, QloraConfig)
    if resolve_device(job.train).type == "cpu":
        _check_widths(job)
    quantization: dict[str, Json] = {
        "load_in_4bit": True,
        "bnb_4bit_quant_type": job.config.quant_type,
        "bnb_4bit_use_double_quant": job.config.double_quant,
        "bnb_4bit_compute_dtype": str(compute_dtype(job.train)).removeprefix("torch."),
    }
    model = load_model(
        job,
        dtype=compute_dtype(job.train),
        quantization_config=transformers.BitsAndBytesConfig(**quantization),
    )
    model = add_lora(model, job.config, where="qlora")
    measured = fit(job, model)
    artifact = save_adapter(job, model, measured, base_quantization=quantization)
    return replace(artifact, requires=(_BITSANDBYTES,))


def _check_widths(job: TrainJob) -> None:
    """Raise ``InputError`` for a base whose layers are of a width that the CPU kernels cannot work with."""
    with quiet(), torch.device("meta"):
        config = transformers.AutoConfig.from_pretrained(job.base, local_files_only=True)
        model = transformers.AutoModelForCausalLM.from_config(config)
    for name, layer in model.named_modules():
        width = _width(layer)
        if width % _CPU_MULTIPLE and layer is not model.get_output_embeddings():
            raise InputError(
                f"layer {name} has {width} output features; on a CPU, 4-bit layers need a multiple of {_CPU_MULTIPLE}",
                where=str(job.base),
                hint="Use method lora, or train on a GPU.",
            )


def _width(layer: Any) -> int:
    """Output features of a layer that gets quantized; 0 for others."""
    if isinstance(layer, nn.Linear):
        return int(layer.out_features)
    return int(layer.nf) if isinstance(layer, Conv1D) else 0
