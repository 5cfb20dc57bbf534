"""Method ``full``: all weights are trained."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field

from ftreg.core.errors import InputError
from ftreg.core.recipe import Config
from ftreg.core.types import Artifact, TrainJob
from ftreg.training import describe, fit, load_model, save_checkpoint


class FullConfig(Config):
    """What can be set for full fine-tuning."""

    dtype: Literal["base", "float32", "bfloat16", "float16"] = Field(
        "base", description="dtype of the saved weights; base: that of the base's. Training itself is in float32"
    )


def train(job: TrainJob) -> Artifact:
    """Train all weights, in float32 with autocast where the precision is lower, and save a checkpoint."""
    assert isinstance(job.config, FullConfig)
    facts = describe(job.base)
    if "quantization" in facts:
        raise InputError(
            "a quantized base cannot be trained in full", where=str(job.base), hint="Use method lora, or another base."
        )
    model = load_model(job)
    measured = fit(job, model)
    names = {"f32": "float32", "bf16": "bfloat16", "f16": "float16"}
    dtype = names.get(facts["dtype"], "float32") if job.config.dtype == "base" else job.config.dtype
    return save_checkpoint(job, model.to(getattr(torch, dtype)), measured)
