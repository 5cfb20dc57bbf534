"""Engines: finds the plugin that can load a version, and checks what the loaded model returns."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ftreg.context import Context
from ftreg.core.errors import InputError, MissingExtra
from ftreg.core.host import PluginHost
from ftreg.core.manifest import Json
from ftreg.core.requirements import Requirement, installed_versions
from ftreg.core.specs import EngineSpec
from ftreg.core.types import ADAPTER, Source

if TYPE_CHECKING:
    import numpy as np


def find_engine(host: PluginHost, kind: str, name: str | None = None) -> EngineSpec:
    """Return the engine called ``name``, else the first that loads ``kind``.

    Raises:
        UnknownName: No engine is called ``name``.
        InputError: The named engine, or every engine, cannot load ``kind``.
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
    raise InputError(f"no engine can load a version of kind {kind}", hint="See `registry.host.plugins`")


def runtime_of(source: Source) -> list[Requirement]:
    """Return the distributions that loading ``source`` needs, beyond those of the engine; its base's too."""
    needed = [source.manifest]
    if source.manifest.parent("base") is not None and source.kind == ADAPTER:
        needed.append(source.parent("base").manifest)
    return [requirement for manifest in needed for requirement in manifest.requires]


def engine_key(host: PluginHost, source: Source, name: str | None = None) -> dict[str, Json]:
    """Return what answers of ``source`` depend on beside its bytes: the engine, and the packages that run it."""
    spec = find_engine(host, source.kind, name)
    plugin = host.provider(spec)
    packages = installed_versions([*spec.requires, *runtime_of(source)])
    return {"name": spec.name, "environment": {plugin.distribution: plugin.version, **packages}}


def require_runtime(source: Source) -> None:
    """Raise ``MissingExtra`` if a distribution that loading ``source`` needs is not installed."""
    for requirement in runtime_of(source):
        if not requirement.is_installed:
            raise MissingExtra(source.ref, requirement.distribution, requirement.install)


@contextmanager
def open_engine(context: Context, source: Source, *, name: str | None = None) -> Iterator[GuardedEngine]:
    """Load ``source`` in the engine called ``name``, else in the first that can load it, and close it afterwards.

    Raises:
        MissingExtra: A distribution that the engine or the version needs is not installed.
        PluginError: The engine breaks its contract, when it is loaded or while it is used.
    """
    spec = find_engine(context.host, source.kind, name)
    context.host.require(spec)
    require_runtime(source)
    engine = GuardedEngine(context.host, spec, source)
    try:
        yield engine
    finally:
        engine.close()


class GuardedEngine:
    """An engine whose errors and wrong results are reported with the name of its plugin.

    Args:
        host: The plugins.
        spec: The engine.
        source: The version to load.

    Attributes:
        device: Where the engine says that it computes; None if it does not say.
        tokenizer: The model's tokenizer.
    """

    def __init__(self, host: PluginHost, spec: EngineSpec, source: Source) -> None:
        self._host = host
        self._spec = spec
        self._engine = host.call(spec, source, "auto", returns=object)
        self.device: str | None = self._run("device", lambda: getattr(self._engine, "device", None), object)
        self.tokenizer: Any = self._run("tokenizer", lambda: self._engine.tokenizer, object)

    def logits(self, batch: Sequence[Sequence[int]], *, last: int | None = None) -> list[np.ndarray]:
        """Return what ``Engine.logits`` does, with its shapes checked."""
        rows: list[np.ndarray] = self._run("logits", lambda: self._engine.logits(batch, last=last), list)
        expected = [min(len(row), last or len(row)) for row in batch]
        shapes = [getattr(row, "shape", None) for row in rows]
        if [shape[0] if shape and len(shape) == 2 else None for shape in shapes] != expected:
            problem = f"logits returned arrays of shapes {shapes}, not (T, vocabulary) for T of {expected}"
            raise self._host.broken(self._spec, problem)
        return rows

    def generate(self, batch: Sequence[Sequence[int]], *, max_new_tokens: int) -> list[list[int]]:
        """Return what ``Engine.generate`` does, with the number of answers checked."""
        rows: list[list[int]] = self._run(
            "generate", lambda: self._engine.generate(batch, max_new_tokens=max_new_tokens), list
        )
        if len(rows) != len(batch) or not all(isinstance(row, list) for row in rows):
            raise self._host.broken(self._spec, f"generate returned {len(rows)} answers to {len(batch)} prompts")
        return rows

    def close(self) -> None:
        """Free the model."""
        self._run("close", self._engine.close, object)

    def _run(self, what: str, call: Any, returns: type) -> Any:
        return self._host.run(self._spec, f"{self._spec.impl}.{what}", call, returns=returns)
