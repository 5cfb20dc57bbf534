"""The reference of plugins: hooks, specs, jobs and protocols."""

from __future__ import annotations

import dataclasses
import inspect

from ftreg.core import hookspecs, specs, types
from reference.markdown import attributes, prose, signature, table

SPECS = (
    specs.MethodSpec,
    specs.StepSpec,
    specs.EngineSpec,
    specs.FormatSpec,
    specs.MetricSpec,
    specs.CommandSpec,
    specs.Requirement,
)
RECORDS = (
    types.TrainJob,
    types.StepJob,
    types.MetricJob,
    types.Input,
    types.Artifact,
    types.Tolerance,
    types.AnsweredPrompt,
    types.Scores,
    types.Table,
    types.Source,
    types.Splits,
    types.Example,
    types.Message,
    types.Version,
    types.RunInfo,
    types.Problem,
    types.ServedModel,
)
PROTOCOLS = (
    types.Method,
    types.Step,
    types.Engine,
    types.ServingEngine,
    types.Batch,
    types.Format,
    types.Metric,
    types.Progress,
)


def all_hooks() -> str:
    """Every hook with its signature and docstring."""
    hooks = [function for name, function in vars(hookspecs).items() if name.startswith("ftreg_")]
    introduction = prose(hookspecs).split("\n\n", 1)[1]
    return "\n\n".join([introduction, *(f"### `{signature(hook)}`\n\n{prose(hook)}" for hook in hooks)])


def specs_of_hooks() -> str:
    """Every spec that a contributing hook returns."""
    return "\n\n".join(record_table(spec) for spec in SPECS)


def records() -> str:
    """Every job and record that plugins get or return."""
    return "\n\n".join(record_table(record) for record in RECORDS)


def protocols() -> str:
    """Every protocol of an ``impl``, with its methods."""
    return "\n\n".join(_protocol(protocol) for protocol in PROTOCOLS)


def record_table(record: type) -> str:
    """A dataclass: its fields with types, defaults and what its docstring says of them."""
    described = attributes(record)
    rows = [
        [f"`{field.name}`", f"`{field.type}`", _default(field), described.get(field.name, "")]
        for field in dataclasses.fields(record)
    ]
    return f"### `{record.__name__}`\n\n{prose(record)}\n\n{table(['field', 'type', 'default', ''], rows)}"


def _protocol(protocol: type) -> str:
    methods = [
        f"- `{signature(function)}`: {' '.join(prose(function).split())}"
        for name, function in vars(protocol).items()
        if inspect.isfunction(function) and (not name.startswith("_") or name == "__call__")
    ]
    return f"### `{protocol.__name__}`\n\n{prose(protocol)}\n\n" + "\n".join(methods)


def _default(field: dataclasses.Field[object]) -> str:
    if field.default is not dataclasses.MISSING:
        return f"`{field.default!r}`"
    if field.default_factory is not dataclasses.MISSING:
        return "empty"
    return "(required)"
