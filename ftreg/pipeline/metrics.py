"""Metrics: chooses those of an evaluation, configures them, and checks what they return."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from numbers import Real
from typing import Any

from pydantic import BaseModel

from ftreg.core.errors import InputError
from ftreg.core.host import PluginHost
from ftreg.core.manifest import Json
from ftreg.core.recipe import apply_settings
from ftreg.core.requirements import installed_versions
from ftreg.core.specs import MetricSpec
from ftreg.core.types import AnsweredPrompt, MetricJob, NullProgress, Progress, Scores, Table, mean
from ftreg.pipeline.runs import full_config


@dataclass(frozen=True)
class MetricCall:
    """A metric with its settings.

    Attributes:
        spec: The metric.
        config: Its validated configuration.
        key: What a figure depends on beside the answers, as JSON: the ``settings``, and as ``environment`` the versions
            of the metric's plugin and of the distributions that it requires.
    """

    spec: MetricSpec
    config: BaseModel
    key: Mapping[str, Json]


def choose_metrics(host: PluginHost, names: Sequence[str], settings: Mapping[str, Any]) -> list[MetricCall]:
    """Return the default metrics and those called ``names``, configured.

    Args:
        host: The plugins.
        names: Metrics to compute beside those that every evaluation has.
        settings: Their settings by dotted key, such as ``{"rouge.stemmer": True}``.

    Raises:
        InputError: A metric or a setting does not exist, or a setting belongs to a metric that is not computed.
        MissingExtra: A metric needs a distribution that is not installed.
    """
    specs = [spec for spec in host.specs(MetricSpec) if spec.default]
    specs += [host.get(MetricSpec, name, where="metrics") for name in names]
    chosen = {spec.name: spec for spec in specs}
    given = apply_settings({}, settings)
    for name, values in given.items():
        host.get(MetricSpec, name, where="settings")
        if name not in chosen:
            hint = f"Name {name} with `metrics`."
            raise InputError(f"there are settings for {name}, which is not computed", where="settings", hint=hint)
        if not isinstance(values, Mapping):
            hint = f"Its settings are called {name}.KEY; see `ftreg.api.settings.settings('{name}')`"
            raise InputError(f"{name} is a metric, not a setting of one", where="settings", hint=hint)
    return [_call(host, spec, given.get(spec.name, {})) for spec in chosen.values()]


def _call(host: PluginHost, spec: MetricSpec, settings: Mapping[str, Any]) -> MetricCall:
    """Configure a metric."""
    config = host.configure(spec, settings, where=spec.name)
    plugin = host.provider(spec)
    environment = {plugin.distribution: plugin.version, **installed_versions(host.requirements(spec, config))}
    return MetricCall(spec, config, {"settings": full_config(config), "environment": environment})


def compute(
    host: PluginHost, call: MetricCall, answers: Collection[AnsweredPrompt], progress: Progress | None = None
) -> dict[str, Json]:
    """Compute one metric, and return its ``figures``, ``tables`` and ``examples`` as JSON.

    Raises:
        PluginError: The metric breaks its contract.
        FtregError: The metric raised it on purpose.
    """
    spec = call.spec
    returned = host.call(spec, MetricJob(answers, call.config, progress or NullProgress()), returns=object)
    check = partial(_checked, host, spec, returned, len(answers))
    found: dict[str, Json] = host.run(spec, spec.impl, check, returns=dict)
    return found


def _checked(host: PluginHost, spec: MetricSpec, returned: Any, answers: int) -> dict[str, Json]:
    """Return what a metric returned as JSON; raise ``PluginError`` if it is nothing that a metric may return."""
    if not isinstance(returned, Scores):
        returned = Scores(returned if isinstance(returned, Mapping) else {spec.name: returned})
    if not returned.figures:
        raise host.broken(spec, "it returned no figure")
    for name, figure in returned.figures.items():
        if not isinstance(name, str) or not name:
            raise host.broken(spec, f"{name!r} is not a name for a figure")
        if isinstance(figure, bool) or not isinstance(figure, Real) or not math.isfinite(figure):
            which = "it returned" if name == spec.name else f"its figure {name!r} is"
            raise host.broken(spec, f"{which} {figure!r}, which is not a finite number")
    for table in returned.tables:
        _check_table(host, spec, table)
    figures = {name: float(figure) for name, figure in sorted(returned.figures.items())}
    for name, scores in returned.examples.items():
        _check_mean(host, spec, name, figures.get(name), scores, answers)
    tables = [asdict(table) for table in returned.tables]
    return {"figures": figures, "tables": tables, "examples": dict(returned.examples)}


def _check_mean(
    host: PluginHost, spec: MetricSpec, name: str, figure: float | None, scores: Sequence[float], answers: int
) -> None:
    """Raise ``PluginError`` if ``figure`` is not the mean of the scores, or these are not one for each answer."""
    if len(scores) != answers:
        raise host.broken(spec, f"its figure {name!r} has {len(scores)} scores for {answers} answers")
    if figure is None or not math.isclose(figure, mean(scores), rel_tol=1e-6, abs_tol=1e-9):
        raise host.broken(spec, f"its figure {name!r} is not the mean of the scores of the answers")


def _check_table(host: PluginHost, spec: MetricSpec, table: object) -> None:
    """Raise ``PluginError`` if ``table`` cannot be shown."""
    if not isinstance(table, Table):
        raise host.broken(spec, f"it returned {type(table).__name__} as a table, not Table")
    for row in table.rows:
        if len(row) != len(table.columns):
            problem = f"its table {table.title!r} has {len(table.columns)} columns, and a row of {len(row)} cells"
            raise host.broken(spec, problem)
        for cell in row:
            if not (cell is None or isinstance(cell, str | int) or (isinstance(cell, float) and math.isfinite(cell))):
                raise host.broken(spec, f"its table {table.title!r} has the cell {cell!r}, which is not JSON")
