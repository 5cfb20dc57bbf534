"""Suites: runs benchmarks of other projects on versions, with the figures as evidence. ``lm-eval`` is the only one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftreg.compat.lm_eval import LM_EVAL
from ftreg.context import Context
from ftreg.core.errors import InputError, MissingExtra, UnknownName
from ftreg.core.manifest import Json
from ftreg.core.recipe import apply_settings, validate
from ftreg.core.types import Source
from ftreg.pipeline.engines import engine_key, open_engine
from ftreg.pipeline.evaluations import check_evaluable, is_versioned
from ftreg.pipeline.runs import full_config
from ftreg.registry import EvidenceRecord

if TYPE_CHECKING:
    from ftreg.evaluation.harness.config import HarnessConfig
    from ftreg.evaluation.harness.tasks import Loaded

SUITE = "suite"
"""The type of the evidence that holds a suite's figures."""

_LM_EVAL = "lm-eval"


@dataclass(frozen=True)
class SuiteFigure:
    """A figure of a task.

    Attributes:
        metric: Its name.
        filter: What lm-eval did to answers before they were scored; ``none`` for nothing.
        value: The figure; None if it is not finite.
        stderr: Its standard error; None if it has none.
        higher_is_better: Whether a higher figure is better; None if lm-eval does not say.
    """

    metric: str
    filter: str
    value: float | None
    stderr: float | None
    higher_is_better: bool | None


@dataclass(frozen=True)
class SuiteTask:
    """The figures of a task, or of a group of tasks.

    Attributes:
        name: Its name.
        version: Its version, as its author counts it.
        num_fewshot: How many examples preceded each question; None for a group whose tasks differ.
        examples: How many examples it has, or were used; None for a group.
        figures: The figures.
    """

    name: str
    version: str
    num_fewshot: int | None
    examples: int | None
    figures: Sequence[SuiteFigure]


@dataclass(frozen=True)
class SuiteRun:
    """How a version did in a suite.

    Attributes:
        ref: The version.
        suite: The suite.
        version: The suite's own version.
        settings: How it was run.
        limit: How many examples of each task were used at most; None for all.
        engine: The engine that ran the version, and the packages that it needs.
        tasks: The figures, in the order of the names that were given.
    """

    ref: str
    suite: str
    version: str
    settings: Mapping[str, Json]
    limit: int | None
    engine: Mapping[str, Json]
    tasks: Sequence[SuiteTask]


def run_suite(
    context: Context,
    ref: str,
    suite: str,
    *,
    tasks: Path | None = None,
    settings: Mapping[str, Any],
    limit: int | None = None,
    engine: str | None = None,
    again: bool = False,
) -> SuiteRun:
    """Run the tasks that ``suite`` names on a version, and keep the figures as evidence on its digest.

    Figures that are on record for the same tasks, data, settings, engine and packages are taken from there, unless
    ``again``. Arguments and errors are those of ``ftreg.api.suites.run_suite``.
    """
    names = _names(suite)
    if not LM_EVAL.is_installed:
        raise MissingExtra(f"suite {_LM_EVAL}", LM_EVAL.distribution, LM_EVAL.install)
    check_evaluable(context, ref, engine=engine)
    source = context.registry.source(ref)
    config = _configure(settings)
    if tasks is not None and not tasks.is_dir():
        raise InputError(f"{tasks} is not a folder", where="tasks", hint="Name one with the YAML files of tasks.")
    run: dict[str, Json] = {
        "suite": _LM_EVAL,
        "version": metadata.version(LM_EVAL.distribution),
        "settings": full_config(config),
        "limit": limit,
        "engine": engine_key(context.host, source, engine),
    }
    bodies = _bodies(context, source, _load(context, names, tasks, config), run, config, engine=engine, again=again)
    found = [SuiteTask(**{**task, "figures": _figures(task)}) for body in bodies for task in body["tasks"]]
    return SuiteRun(ref=source.ref, tasks=found, **run)


def _names(suite: str) -> list[str]:
    """Return the tasks that ``lm-eval:TASK,TASK`` names, each once."""
    name, _, tasks = suite.partition(":")
    if name != _LM_EVAL:
        raise UnknownName("suite", name, [_LM_EVAL], where="suite")
    names = list(dict.fromkeys(task.strip() for task in tasks.split(",") if task.strip()))
    if not names:
        raise InputError(f"{suite!r} names no task", where="suite", hint=f"Write one, such as {_LM_EVAL}:hellaswag.")
    return names


def _configure(settings: Mapping[str, Any]) -> HarnessConfig:
    """Validate settings by dotted key, such as ``lm-eval.num_fewshot``."""
    from ftreg.evaluation.harness.config import HarnessConfig  # imports numpy, which is not always installed

    sections = apply_settings({}, settings)
    for section, values in sections.items():
        if section != _LM_EVAL or not isinstance(values, Mapping):
            hint = f"Its settings are called {_LM_EVAL}.KEY; see `ftreg.api.settings.settings('{_LM_EVAL}')`"
            raise InputError(f"{section!r} is not a setting of suite {_LM_EVAL}", where="settings", hint=hint)
    return validate(HarnessConfig, sections.get(_LM_EVAL, {}), where=_LM_EVAL)


def _load(context: Context, names: Sequence[str], tasks: Path | None, config: HarnessConfig) -> list[Loaded]:
    """Load tasks with their data."""
    context.progress.say(f"loading {', '.join(names)} of {_LM_EVAL}")
    from ftreg.evaluation.harness.tasks import load_tasks  # takes seconds to import

    return load_tasks(names, tasks, config)


def _bodies(
    context: Context,
    source: Source,
    loaded: Sequence[Loaded],
    run: Mapping[str, Json],
    config: HarnessConfig,
    *,
    engine: str | None,
    again: bool,
) -> list[Mapping[str, Json]]:
    """Return what the evidence has to say of each name, running what is not on record, with the model loaded once."""
    from ftreg.evaluation.harness.model import EngineModel
    from ftreg.evaluation.harness.run import run_tasks

    keys = [{**run, "name": one.name, "digest": one.digest(run["limit"])} for one in loaded]
    known = [None if again else _on_record(context, source, key) for key in keys]
    bodies: list[Mapping[str, Json]] = [record.body if record else {} for record in known]
    for record in known:
        if record:
            context.progress.say(
                f"{source.ref} was run on {record.body['name']} on {record.at[:10]}: the figures on record are shown"
            )
    if all(known):
        return bodies
    with open_engine(context, source, name=engine) as opened:
        model = EngineModel(opened, context.progress)
        for index, key in enumerate(keys):
            if known[index] is None:
                context.progress.say(f"running {key['name']} on {source.ref}")
                bodies[index] = {**key, "tasks": run_tasks(model, loaded[index], config, run["limit"])}
                context.registry.add_evidence(source.ref, SUITE, bodies[index])
    return bodies


def _on_record(context: Context, source: Source, key: Mapping[str, Json]) -> EvidenceRecord | None:
    """Return the newest record of the same run; None if there is none, or its packages cannot be told apart."""
    if not is_versioned(key["engine"]):
        return None
    for record in reversed(context.registry.evidence(source.digest)):
        if record.type == SUITE and all(record.body.get(name) == value for name, value in key.items()):
            return record
    return None


def _figures(task: Mapping[str, Json]) -> list[SuiteFigure]:
    return [SuiteFigure(**figure) for figure in task["figures"]]
