"""Distillation: trains a student on the probabilities that a teacher gives to each next token."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ftreg.api.opening import opened
from ftreg.api.training import train
from ftreg.core.errors import UnknownName
from ftreg.core.names import nearest_name
from ftreg.core.types import Progress, Version
from ftreg.pipeline.inputs import is_path, is_uri, model_name
from ftreg.registry import Registry


def distill(
    student: str,
    teacher: str,
    data: str | Path,
    *,
    name: str | None = None,
    method: str = "full",
    temperature: float | None = None,
    divergence: str | None = None,
    label_weight: float | None = None,
    settings: Mapping[str, Any] | None = None,
    resume: bool = False,
    registry: Registry | None = None,
    progress: Progress | None = None,
) -> Version:
    """Train ``student`` to answer like ``teacher``, and register the result.

    This is ``train`` with the recipe that ``distillation_recipe`` returns.

    Args:
        student: The model to train: a reference, a folder, or ``hf:org/name``.
        teacher: The model to learn from: the same, or a reference to an adapter. Its tokens must be the student's.
        data: A file, or a dataset in the registry.
        name: Name of the result; by default the student's, followed by ``-distilled``.
        method: How the student is trained.
        temperature: ``objective.distillation.temperature``; None for the default.
        divergence: ``objective.distillation.divergence``; the same.
        label_weight: ``objective.distillation.label_weight``; the same.
        settings: Further settings of the recipe by dotted key, such as ``{"train.epochs": 3}``.
        resume: Resume from the last checkpoint of the same run, which was interrupted.
        registry: Where to read and publish; by default the default registry.
        progress: Where to report progress.

    Raises:
        InputError: An argument or a setting cannot be used.
        InfeasiblePlan: The vocabularies of student and teacher differ.
    """
    with opened(registry, progress) as context:
        recipe = distillation_recipe(
            student,
            teacher,
            data,
            name=name,
            method=method,
            temperature=temperature,
            divergence=divergence,
            label_weight=label_weight,
            registry=context.registry,
        )
        return train(recipe, settings=settings, resume=resume, registry=context.registry, progress=context.progress)


def distillation_recipe(
    student: str,
    teacher: str,
    data: str | Path,
    *,
    name: str | None = None,
    method: str = "full",
    temperature: float | None = None,
    divergence: str | None = None,
    label_weight: float | None = None,
    registry: Registry | None = None,
) -> dict[str, Any]:
    """Return the recipe of a distillation, for ``train``, ``preview`` and ``plan``; arguments are as for ``distill``.

    Raises:
        UnknownName: ``student`` is not in the registry.
    """
    given = {"temperature": temperature, "divergence": divergence, "label_weight": label_weight}
    settings = {key: value for key, value in given.items() if value is not None}
    return {
        "name": name or nearest_name(f"{_name_of(student, registry)}-distilled"),
        "base": student,
        "data": {"path": str(data)},
        "method": method,
        "objective": {"distillation": {"teacher": teacher, **settings}},
    }


def _name_of(student: str, registry: Registry | None) -> str:
    """Return the name of a version, of a folder, or of what a URI names."""
    if is_path(student) or is_uri(student):
        return model_name(student)
    with opened(registry, None) as context:
        try:
            return context.registry.get(student).name
        except UnknownName as error:
            error.where = "student"
            raise
