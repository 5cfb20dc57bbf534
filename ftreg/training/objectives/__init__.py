"""Objectives: what a training run minimizes. Each is a file of its own and follows the protocol in ``base``."""

from __future__ import annotations

from typing import Any

from ftreg.core.types import TrainJob
from ftreg.models.inference import load_version
from ftreg.training.loading import compute_dtype
from ftreg.training.objectives.base import Objective
from ftreg.training.objectives.causal_lm import CausalLM
from ftreg.training.objectives.distillation import Distillation


def load_objective(job: TrainJob, model: Any) -> Objective:
    """Return what a job's run minimizes.

    Args:
        job: The job; a teacher is loaded in the dtype of its matrix products, unless it is quantized.
        model: The model to train; a teacher is loaded on the same device.

    Raises:
        InputError: The files of a teacher cannot be loaded.
    """
    if job.objective is None:
        return CausalLM(model)
    teacher = load_version(job.models["teacher"], str(model.device), compute_dtype(job.train))
    return Distillation(model, teacher, job.objective.distillation)
