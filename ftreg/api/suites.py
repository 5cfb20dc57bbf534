"""Suites: benchmarks of other projects, such as EleutherAI's lm-eval, on a version."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from ftreg.api.opening import opened
from ftreg.core.types import Progress
from ftreg.pipeline import suites
from ftreg.pipeline.suites import SuiteFigure, SuiteRun, SuiteTask
from ftreg.registry import Registry

__all__ = ["SuiteFigure", "SuiteRun", "SuiteTask", "run_suite"]


def run_suite(
    ref: str,
    suite: str,
    *,
    tasks: str | Path | None = None,
    settings: Mapping[str, Any] = MappingProxyType({}),
    limit: int | None = None,
    engine: str | None = None,
    again: bool = False,
    registry: Registry | None = None,
    progress: Progress | None = None,
) -> SuiteRun:
    """Run tasks of a suite on ``ref``, and keep the figures with it as evidence; what is on record is not run again.

    Args:
        ref: The version.
        suite: The suite and its tasks, groups or tags, such as ``lm-eval:hellaswag,arc_easy``.
        tasks: A folder with further tasks for lm-eval (YAML files, which may name Python code that is run).
        settings: Settings by dotted key, such as ``{"lm-eval.num_fewshot": 5}``.
        limit: Use only the first so many examples of each task.
        engine: The engine to run the version with; by default the first that can load it.
        again: Run everything anew, also what is on record.
        registry: Where to read and to add the evidence; by default the default registry.
        progress: Where to report progress.

    Raises:
        InputError: The version, the suite, a task or a setting does not exist or cannot be used, such as a task whose
            data cannot be reached or that needs what engines do not do.
        MissingExtra: The suite, or the engine, needs a package that is not installed.
        FtregError: lm-eval, or a task's own code, fails.
    """
    with opened(registry, progress) as context:
        return suites.run_suite(
            context, ref, suite, tasks=None if tasks is None else Path(tasks), settings=settings, limit=limit,
            engine=engine, again=again,
        )  # fmt: skip
