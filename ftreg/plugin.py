"""Everything a plugin imports: ``from ftreg.plugin import MethodSpec, TrainJob, Artifact, hookimpl``."""

from ftreg.core.errors import DataError, FtregError, InputError, MissingExtra
from ftreg.core.hookspecs import hookimpl
from ftreg.core.specs import CommandSpec, EngineSpec, FormatSpec, MethodSpec, MetricSpec, Requirement, StepSpec
from ftreg.core.types import (
    Artifact,
    Engine,
    Example,
    Message,
    Problem,
    RunInfo,
    Source,
    StepJob,
    Tolerance,
    TrainJob,
    Version,
)

__all__ = [
    "Artifact",
    "CommandSpec",
    "DataError",
    "Engine",
    "EngineSpec",
    "Example",
    "FormatSpec",
    "FtregError",
    "InputError",
    "Message",
    "MethodSpec",
    "MetricSpec",
    "MissingExtra",
    "Problem",
    "Requirement",
    "RunInfo",
    "Source",
    "StepJob",
    "StepSpec",
    "Tolerance",
    "TrainJob",
    "Version",
    "hookimpl",
]
