"""Engines: finds the plugin that can load a version, and loads it for as long as it is needed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from ftreg.context import Context
from ftreg.core.errors import InputError
from ftreg.core.host import PluginHost
from ftreg.core.specs import EngineSpec
from ftreg.core.types import Engine, Source


def find_engine(host: PluginHost, kind: str, name: str | None = None) -> EngineSpec:
    """Return the engine called ``name``, else the first that loads ``kind``.

    Raises:
        UnknownName: No engine is called ``name``.
        InputError: The named engine, or any engine at all, cannot load ``kind``.
    """
    if name is not None:
        spec = host.get(EngineSpec, name, where="engine")
        if kind not in spec.kinds:
            hint = f"It loads {', '.join(spec.kinds)}."
            raise InputError(f"engine {name} cannot load a version of kind {kind}", hint=hint)
        return spec
    for spec in host.specs(EngineSpec):
        if kind in spec.kinds:
            return spec
    raise InputError(f"no engine can load a version of kind {kind}", hint="See: ftreg plugins list")


@contextmanager
def open_engine(context: Context, source: Source, *, name: str | None = None) -> Iterator[Engine]:
    """Load ``source`` in the engine called ``name``, else in the first that can, and close it afterwards."""
    spec = find_engine(context.host, source.kind, name)
    engine: Engine = context.host.load(spec)(source, "auto")
    try:
        yield engine
    finally:
        engine.close()
