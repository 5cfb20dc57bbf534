"""Method ``full``: trains all weights."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace

import torch

from ftreg.core.errors import InputError
from ftreg.core.types import Artifact, TrainJob
from ftreg.models.checkpoint import Checkpoint
from ftreg.models.facts import describe
from ftreg.models.matrices import stored_matrices
from ftreg.models.sparsity import count_zeros
from ftreg.plugins.methods.config import FullConfig
from ftreg.plugins.methods.zeros import zeros_kept
from ftreg.training import fit, load_model, save_checkpoint


def train(job: TrainJob) -> Artifact:
    """Train all weights, or with ``keep_zeros`` those that are not zero, and save a checkpoint.

    The weights are float32 during training; at lower precision, matrix products run under autocast.

    Raises:
        InputError: The base is quantized, or has no zeros to keep.
    """
    assert isinstance(job.config, FullConfig)
    facts = describe(job.base)
    if "quantization" in facts:
        raise InputError(
            "method full cannot train a quantized base", where=str(job.base), hint="Use method lora, or another base."
        )
    model = load_model(job)
    with zeros_kept(model) if job.config.keep_zeros else nullcontext():
        measured = fit(job, model)
    names = {"f32": "float32", "bf16": "bfloat16", "f16": "float16"}
    dtype = names.get(facts["dtype"], "float32") if job.config.dtype == "base" else job.config.dtype
    artifact = save_checkpoint(job, model.to(getattr(torch, dtype)), measured)
    if not job.config.keep_zeros:
        return artifact
    result = Checkpoint(job.staging)
    layers = [name for name, matrix in stored_matrices(model, result.tensors).items() if matrix.layer]
    return replace(artifact, facts={**artifact.facts, **count_zeros(result, layers).facts()})
