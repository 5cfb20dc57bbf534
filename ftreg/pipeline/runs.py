"""Runs: what a version records about the run that made it, and the calls to observers."""

from __future__ import annotations

import platform
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from pydantic import BaseModel

from ftreg.context import Context
from ftreg.core.faults import fault_of
from ftreg.core.host import PluginHost
from ftreg.core.manifest import Json, Producer
from ftreg.core.requirements import installed_versions
from ftreg.core.specs import MethodSpec, Spec, StepSpec
from ftreg.core.types import RunInfo, Version


def producer_of(host: PluginHost, spec: MethodSpec | StepSpec, config: Mapping[str, Json]) -> Producer:
    """Return the producer to record in a version: the plugin that provides ``spec``, and the configuration."""
    plugin = host.provider(spec)
    return Producer(spec.what, spec.name, plugin.name, plugin.distribution, plugin.version, config)


def environment(spec: Spec) -> dict[str, str | None]:
    """Return the versions of Python and of the distributions that ``spec`` requires; they may affect the result."""
    return {"python": platform.python_version(), **installed_versions(spec.requires)}


def full_config(config: BaseModel) -> dict[str, Json]:
    """Return a validated configuration as JSON, defaults included, so that the run can be repeated."""
    return config.model_dump(mode="json")


@contextmanager
def observed(context: Context, run: RunInfo) -> Iterator[list[Version]]:
    """Tell observers that ``run`` starts and how it ends; the body appends the published version to the list.

    A fault of the machine, such as a full disk, is raised as an ftreg error that says what to do.
    """
    context.host.notify("ftreg_run_started", run=run)
    published: list[Version] = []
    try:
        yield published
    except BaseException as error:
        fault = fault_of(error, context.registry.home)
        context.host.notify("ftreg_run_failed", run=run, error=fault or error)
        if fault is not None:
            raise fault from error
        raise
    for version in published:
        context.host.notify("ftreg_run_finished", run=run, version=version)
