"""Loading a job's base: on the device and in the precision that the job asks for."""

from __future__ import annotations

from typing import Any

import torch
import transformers

from ftreg.core.errors import InputError
from ftreg.core.recipe import TrainConfig
from ftreg.core.types import TrainJob
from ftreg.data import Encoder
from ftreg.models.loading import load_pretrained
from ftreg.models.tokenizer import load_tokenizer

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def resolve_device(train: TrainConfig) -> torch.device:
    """Return the device that ``train.device`` selects; raise ``InputError`` if this machine does not have it."""
    available = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if train.device == "auto":
        return torch.device(next(name for name, there in available.items() if there))
    if not available[train.device]:
        raise InputError(f"this machine has no {train.device} device", where="train.device", hint="Set it to auto.")
    return torch.device(train.device)


def resolve_precision(train: TrainConfig) -> str:
    """Return ``fp32``, ``bf16`` or ``fp16``, as ``train.precision`` selects on the device.

    Raises:
        InputError: The device cannot train in this precision.
    """
    device = resolve_device(train)
    if train.precision == "auto":
        if device.type != "cuda":
            return "fp32"
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    if train.precision == "fp16" and device.type != "cuda":
        raise InputError(
            f"fp16 training needs a CUDA device; this runs on {device.type}",
            where="train.precision",
            hint="Set it to auto.",
        )
    return train.precision


def compute_dtype(train: TrainConfig) -> torch.dtype:
    """Return the dtype of matrix products, which also suits weights that are not trained."""
    return _DTYPES[resolve_precision(train)]


def load_encoder(job: TrainJob) -> Encoder:
    """Return the encoder of a job's examples: its base's tokenizer, with the chat template that the job asks for."""
    return Encoder(load_tokenizer(job.base), max_length=job.train.max_length, template=job.template)


def load_model(job: TrainJob, *, dtype: torch.dtype = torch.float32, **arguments: Any) -> Any:
    """Load a job's base on the job's device, and seed all random number generators.

    Args:
        job: The job.
        dtype: Of the base's weights; ``compute_dtype(job.train)`` suits a base that is frozen.
        **arguments: Further arguments of ``AutoModelForCausalLM.from_pretrained``.

    Raises:
        InputError: The base is not a causal language model, or its files are damaged or incomplete.
    """
    transformers.set_seed(job.train.seed)
    return load_pretrained(job.base, device=resolve_device(job.train), dtype=dtype, **arguments)
