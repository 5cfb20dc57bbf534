"""Step ``quantize``: stores the weights of linear layers in 8 or 4 bits, with bitsandbytes.

LLM.int8() (Dettmers et al., 2022, https://arxiv.org/abs/2208.07339) and 4-bit NormalFloat (Dettmers et al., 2023,
https://arxiv.org/abs/2305.14314). Embeddings, norms and the output layer keep their precision.
"""

from __future__ import annotations

from typing import Any

import bitsandbytes
import torch
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from ftreg.core.errors import InfeasiblePlan
from ftreg.core.requirements import Requirement
from ftreg.core.types import CHECKPOINT, Artifact, StepJob
from ftreg.plugins.engines.loading import loading
from ftreg.plugins.post.checkpoint import (
    Checkpoint,
    clean_config,
    copy_tokenizer,
    dtype_name,
    read_object,
    write_json,
)
from ftreg.plugins.post.config import QuantizeConfig
from ftreg.plugins.post.tolerance import EIGHT_BITS, FOUR_BITS
from ftreg.training import describe, quiet

_CPU_MULTIPLE = 32  # bitsandbytes' 4-bit kernels for CPUs work on blocks of 32 output features


def apply(job: StepJob) -> Artifact:
    """Quantize ``job.source`` and save it so that ``AutoModelForCausalLM.from_pretrained`` loads it as it is.

    Raises:
        InfeasiblePlan: The weights are quantized already, or a layer does not fit the scheme.
        FtregError: The checkpoint cannot be loaded.
    """
    assert isinstance(job.config, QuantizeConfig)
    folder = job.source.path
    source = Checkpoint(folder)
    source.require_full_precision("quantize")
    dtype = _dtype(job.config, source.dtype)
    job.progress.begin(f"quantizing to {job.config.scheme}", None)
    with loading("the model", folder):
        model = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=dtype,
            quantization_config=BitsAndBytesConfig(**_settings(job.config, dtype)),
            device_map={"": "cpu"},
            local_files_only=True,
            use_safetensors=True,
        )
    layers = _check_layers(model, job)
    with quiet():
        model.save_pretrained(job.staging)
    write_json(job.staging / "config.json", clean_config(read_object(job.staging / "config.json")))
    copy_tokenizer(job.staging, folder)
    job.progress.end()
    facts = {
        **describe(job.staging),
        "scheme": job.config.scheme,
        "quantized_layers": layers,
        "bytes_before": source.size,
        "bytes_after": Checkpoint(job.staging).size,
    }
    return Artifact(
        kind=CHECKPOINT,
        facts=facts,
        requires=(Requirement("bitsandbytes", "ftreg[train]"),),
        tolerance=EIGHT_BITS if job.config.scheme == "int8" else FOUR_BITS,
    )


def _dtype(config: QuantizeConfig, stored: torch.dtype) -> torch.dtype:
    """The dtype of what is not quantized."""
    if config.dtype != "auto":
        found: torch.dtype = getattr(torch, config.dtype)
        return found
    return torch.bfloat16 if config.scheme == "nf4" or stored == torch.bfloat16 else torch.float16


def _settings(config: QuantizeConfig, dtype: torch.dtype) -> dict[str, Any]:
    """The scheme as ``BitsAndBytesConfig`` takes it."""
    if config.scheme == "int8":
        return {"load_in_8bit": True}
    return {
        "load_in_4bit": True,
        "bnb_4bit_quant_type": "nf4",
        "bnb_4bit_use_double_quant": config.double_quant,
        "bnb_4bit_compute_dtype": dtype_name(dtype),
    }


def _check_layers(model: Any, job: StepJob) -> int:
    """Count the quantized layers; raise ``InfeasiblePlan`` where there is none, or one that CPUs cannot compute."""
    assert isinstance(job.config, QuantizeConfig)
    kind = bitsandbytes.nn.Linear8bitLt if job.config.scheme == "int8" else bitsandbytes.nn.Linear4bit
    layers = {name: module for name, module in model.named_modules() if isinstance(module, kind)}
    if not layers:
        raise InfeasiblePlan(f"{job.source.ref} has no layer that bitsandbytes can quantize", where="quantize")
    for name, module in layers.items():
        if job.config.scheme == "nf4" and module.out_features % _CPU_MULTIPLE and not torch.cuda.is_available():
            raise InfeasiblePlan(
                f"{name} has {module.out_features} output features; on a CPU, nf4 needs multiples of {_CPU_MULTIPLE}",
                where="quantize",
                hint="Use scheme int8.",
            )
    return len(layers)
