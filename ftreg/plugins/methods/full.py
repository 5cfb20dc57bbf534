"""Method ``full``: trains all weights."""

from __future__ import annotations

import torch

from ftreg.core.errors import InputError
from ftreg.core.types import Artifact, TrainJob
from ftreg.models.facts import describe
from ftreg.plugins.methods.config import FullConfig
from ftreg.training import fit, load_model, save_checkpoint


def train(job: TrainJob) -> Artifact:
    """Train all weights, and save a checkpoint.

    The weights are float32 during training; at lower precision, matrix products run under autocast.

    Raises:
        InputError: The base is quantized.
    """
    assert isinstance(job.config, FullConfig)
    facts = describe(job.base)
    if "quantization" in facts:
        raise InputError(
            "method full cannot train a quantized base", where=str(job.base), hint="Use method lora, or another base."
        )
    model = load_model(job)
    measured = fit(job, model)
    names = {"f32": "float32", "bf16": "bfloat16", "f16": "float16"}
    dtype = names.get(facts["dtype"], "float32") if job.config.dtype == "base" else job.config.dtype
    return save_checkpoint(job, model.to(getattr(torch, dtype)), measured)
