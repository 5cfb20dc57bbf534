"""Results: runs a method or a step, and checks its result before anything is published."""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

from ftreg.core.errors import InputError
from ftreg.core.host import PluginHost
from ftreg.core.names import check_name
from ftreg.core.requirements import Requirement
from ftreg.core.specs import EngineSpec, MethodSpec, StepSpec
from ftreg.core.types import Artifact, StepJob, Tolerance, TrainJob


def run_plugin(host: PluginHost, spec: MethodSpec | StepSpec, job: TrainJob | StepJob) -> Artifact:
    """Run a method or a step, and check its result against its spec and the files that it wrote.

    An artifact that states no capabilities gets those of the spec.

    Raises:
        FtregError: The plugin raised it on purpose; it is passed on unchanged.
        PluginError: The plugin raised anything else, or its result breaks its contract.
    """
    artifact: Artifact = host.call(spec, job, returns=Artifact)
    if artifact.kind != spec.produces:
        raise host.broken(spec, f"its spec says that it produces {spec.produces!r}, but it produced {artifact.kind!r}")
    problem = _malformed(artifact)
    if problem:
        raise host.broken(spec, f"its Artifact is malformed: {problem}")
    if not any(path.is_file() for path in job.staging.rglob("*")):
        raise host.broken(spec, "it wrote no files into job.staging")
    _check_files(host, spec, artifact.kind, job.staging)
    return replace(artifact, capabilities=spec.capabilities) if artifact.capabilities is None else artifact


def _malformed(artifact: Any) -> str | None:
    """Say what is wrong with the fields of an artifact; None if nothing is."""
    try:
        check_name(artifact.task, what="task")
    except (InputError, TypeError, AttributeError) as error:
        return f"task {artifact.task!r}: {error}"
    if artifact.capabilities is not None and not _all(artifact.capabilities, frozenset, str):
        return f"capabilities {artifact.capabilities!r} is not a frozenset of str"
    if not _all(artifact.requires, tuple, Requirement):
        return f"requires {artifact.requires!r} is not a tuple of Requirement"
    if artifact.tolerance is not None and not isinstance(artifact.tolerance, Tolerance):
        return f"tolerance {artifact.tolerance!r} is not a Tolerance"
    for name in ("facts", "measured"):
        try:
            json.dumps(dict(getattr(artifact, name)), allow_nan=False)
        except (TypeError, ValueError) as error:
            return f"{name} cannot be written as JSON: {error}"
    return None


def _all(values: Any, container: type[Collection[Any]], item: type) -> bool:
    return isinstance(values, container) and all(isinstance(value, item) for value in values)


def _check_files(host: PluginHost, spec: MethodSpec | StepSpec, kind: str, folder: Path) -> None:
    """Let the engines of ``kind`` check the files; raise ``PluginError`` if none of them could load these."""
    refusals = []
    for engine in host.specs(EngineSpec):
        if kind not in engine.kinds or engine.check is None or host.missing(engine):
            continue
        try:
            host.check_files(engine, folder)
        except InputError as error:
            refusals.append(f"engine {engine.name}: {error.message}")
        else:
            return
    if refusals:
        raise host.broken(spec, f"what it wrote cannot be loaded as {kind}: {'; '.join(refusals)}")
