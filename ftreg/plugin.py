"""The API for plugins: ``from ftreg.plugin import MethodSpec, TrainJob, Artifact, hookimpl``.

``Config``, the base of a plugin's settings, needs pydantic and is imported on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ftreg.core.capabilities import ALL_WEIGHTS, FULL_PRECISION, GRADIENT_CHECKPOINTING, MERGEABLE, OBJECTIVES
from ftreg.core.errors import DataError, FtregError, InputError, MissingExtra
from ftreg.core.hookspecs import hookimpl
from ftreg.core.requirements import Requirement
from ftreg.core.specs import CommandSpec, EngineSpec, FormatSpec, MethodSpec, MetricSpec, StepSpec
from ftreg.core.types import (
    AnsweredPrompt,
    Artifact,
    Batch,
    Engine,
    Example,
    Input,
    Message,
    MetricJob,
    Problem,
    RemoteBase,
    RunInfo,
    Scores,
    ServedModel,
    ServingEngine,
    Source,
    StepJob,
    Table,
    Tolerance,
    TrainJob,
    Version,
)

if TYPE_CHECKING:
    from ftreg.core.recipe import Config

__all__ = [
    "ALL_WEIGHTS",
    "FULL_PRECISION",
    "GRADIENT_CHECKPOINTING",
    "MERGEABLE",
    "OBJECTIVES",
    "AnsweredPrompt",
    "Artifact",
    "Batch",
    "CommandSpec",
    "Config",
    "DataError",
    "Engine",
    "EngineSpec",
    "Example",
    "FormatSpec",
    "FtregError",
    "Input",
    "InputError",
    "Message",
    "MethodSpec",
    "MetricJob",
    "MetricSpec",
    "MissingExtra",
    "Problem",
    "RemoteBase",
    "Requirement",
    "RunInfo",
    "Scores",
    "ServedModel",
    "ServingEngine",
    "Source",
    "StepJob",
    "StepSpec",
    "Table",
    "Tolerance",
    "TrainJob",
    "Version",
    "hookimpl",
]


def __getattr__(name: str) -> Any:
    if name == "Config":
        from ftreg.core.recipe import Config

        return Config
    raise AttributeError(f"module 'ftreg.plugin' has no attribute {name!r}")
