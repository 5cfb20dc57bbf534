"""The workspace: the registry, the plugin host and the progress that every part of the pipeline works with."""

from __future__ import annotations

import platform
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import metadata
from typing import Any

from ftreg.core.faults import fault_of
from ftreg.core.host import PluginHost
from ftreg.core.manifest import Json, Producer
from ftreg.core.specs import EngineSpec, MethodSpec, Spec, StepSpec
from ftreg.core.types import Engine, Progress, RunInfo, Silence, Source, Version
from ftreg.registry import Registry


@dataclass(frozen=True)
class Workspace:
    """Where work happens: what is stored, who can do what, and whom to tell how far it is."""

    registry: Registry
    host: PluginHost
    progress: Progress = field(default_factory=Silence)

    def producer(self, spec: MethodSpec | StepSpec, config: Mapping[str, Json]) -> Producer:
        """The record of who makes a version: the plugin that ``spec`` comes from, and the full configuration."""
        plugin = self.host.provider(spec)
        return Producer(spec.what, spec.name, plugin.name, plugin.distribution, plugin.version, config)

    @contextmanager
    def observed(self, run: RunInfo) -> Iterator[list[Version]]:
        """Tell observers that ``run`` starts, and how it ends; the body puts the published version into the list.

        What the machine raises, such as a full disk, becomes an ftreg error that says what to do.
        """
        self.host.notify("ftreg_run_started", run=run)
        published: list[Version] = []
        try:
            yield published
        except BaseException as error:
            fault = fault_of(error, self.registry.home)
            self.host.notify("ftreg_run_failed", run=run, error=fault or error)
            if fault is not None:
                raise fault from error
            raise
        for version in published:
            self.host.notify("ftreg_run_finished", run=run, version=version)

    @contextmanager
    def engine(self, source: Source, *, name: str | None = None) -> Iterator[Engine]:
        """Load ``source`` in the engine called ``name``, else in the first that can; free it afterwards."""
        spec = self.engine_spec(source.kind, name)
        engine: Engine = self.host.load(spec)(source, "auto")
        try:
            yield engine
        finally:
            engine.close()

    def engine_spec(self, kind: str, name: str | None = None) -> EngineSpec:
        """The engine for artifacts of ``kind``; raise ``InputError`` where none can load it."""
        from ftreg.core.errors import InputError

        if name is not None:
            spec = self.host.get(EngineSpec, name, where="--engine")
            if kind not in spec.kinds:
                raise InputError(f"engine {name} cannot load a version of kind {kind}", hint=f"It loads {spec.kinds}.")
            return spec
        for spec in self.host.specs(EngineSpec):
            if kind in spec.kinds:
                return spec
        raise InputError(f"no engine can load a version of kind {kind}", hint="See: ftreg plugins list")


def environment(spec: Spec) -> dict[str, str]:
    """Versions of Python and of the packages that ``spec`` requires: what may change a result's bytes."""
    versions = {"python": platform.python_version()}
    for requirement in spec.requires:
        try:
            versions[requirement.package] = metadata.version(requirement.package.replace("_", "-"))
        except metadata.PackageNotFoundError:
            continue
    return versions


def full_config(config: Any) -> dict[str, Json]:
    """A validated configuration as JSON, defaults included, so that it can be run again as it was."""
    dumped: dict[str, Json] = config.model_dump(mode="json")
    return dumped
