"""The plugin host: finds plugins, guards each of them, and keeps what they contribute.

Plugins are found through the entry-point group ``ftreg``, the built-in ones like any other. Each loads in a guard of its
own: one that fails to import, misspells a hook, returns what it may not or takes a taken name is left out and reported,
and every other plugin works on.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import Distribution, distributions
from pathlib import Path
from typing import Any, TypeVar

import pluggy

from ftreg.core import hookspecs
from ftreg.core.errors import MissingExtra, PluginError, UnknownName
from ftreg.core.specs import CommandSpec, EngineSpec, FormatSpec, MethodSpec, MetricSpec, Spec, StepSpec
from ftreg.core.types import Problem

GROUP = "ftreg"
DISTRIBUTION = "ftreg"

logger = logging.getLogger("ftreg.plugins")

SpecT = TypeVar("SpecT", bound=Spec)

_CONTRIBUTIONS: Mapping[str, type[Spec]] = {
    "ftreg_methods": MethodSpec,
    "ftreg_steps": StepSpec,
    "ftreg_engines": EngineSpec,
    "ftreg_formats": FormatSpec,
    "ftreg_metrics": MetricSpec,
    "ftreg_commands": CommandSpec,
}


@dataclass(frozen=True)
class PluginInfo:
    """A plugin as the host found it.

    Attributes:
        name: Its entry point's name.
        module: What the entry point loads.
        distribution: The distribution that brings it.
        version: That distribution's version.
        state: ``active``, ``disabled`` or ``failed``.
        reason: Why it is not active; empty where it is.
        provides: What it contributes, as ``"method lora"``, and the other hooks it implements.
    """

    name: str
    module: str
    distribution: str
    version: str
    state: str
    reason: str = ""
    provides: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Candidate:
    name: str
    module: str
    distribution: str
    version: str

    def info(self, state: str, reason: str = "", provides: Iterable[str] = ()) -> PluginInfo:
        """This candidate, with what became of it."""
        return PluginInfo(self.name, self.module, self.distribution, self.version, state, reason, tuple(provides))


class PluginHost:
    """All plugins of this process.

    Args:
        disabled: Plugin names to leave out (``--no-plugin``).
        only: Names of the third-party plugins to load; None loads all, an empty set none (``FTREG_PLUGINS``).
        trace: Write every hook call to standard error (``FTREG_TRACE_PLUGINS``).
    """

    def __init__(self, *, disabled: Iterable[str] = (), only: Iterable[str] | None = None, trace: bool = False) -> None:
        self._disabled = frozenset(disabled)
        self._only = None if only is None else frozenset(only)
        self._manager = pluggy.PluginManager("ftreg")
        self._manager.add_hookspecs(hookspecs)
        if trace:
            self._manager.trace.root.setwriter(sys.stderr.write)
            self._manager.enable_tracing()
        self._specs: dict[tuple[type[Spec], str], tuple[Spec, PluginInfo]] = {}
        self.plugins: list[PluginInfo] = [self._admit(candidate) for candidate in _candidates()]
        unknown = self._disabled - {plugin.name for plugin in self.plugins}
        if unknown:
            name = sorted(unknown)[0]
            raise UnknownName("plugin", name, [plugin.name for plugin in self.plugins], where="--no-plugin")

    @classmethod
    def from_environment(cls, disabled: Iterable[str] = ()) -> PluginHost:
        """The host that the environment asks for: ``FTREG_PLUGINS`` and ``FTREG_TRACE_PLUGINS``."""
        only = os.environ.get("FTREG_PLUGINS")
        return cls(
            disabled=disabled,
            only=None if only is None else [name.strip() for name in only.split(",") if name.strip()],
            trace=os.environ.get("FTREG_TRACE_PLUGINS", "") not in ("", "0"),
        )

    def _admit(self, candidate: _Candidate) -> PluginInfo:
        """Load one plugin behind a guard, and keep what it contributes if all of it is sound."""
        if candidate.name in self._disabled:
            return candidate.info("disabled", "by --no-plugin")
        if self._only is not None and candidate.distribution != DISTRIBUTION and candidate.name not in self._only:
            return candidate.info("disabled", "by FTREG_PLUGINS")
        # BaseException: a plugin that calls sys.exit() at import must not end the command that lists it.
        try:
            module = resolve_import(candidate.module)
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            return candidate.info("failed", f"import failed: {type(error).__name__}: {error}")
        return self.register(module, candidate)

    def register(self, module: object, candidate: _Candidate | None = None) -> PluginInfo:
        """Register a loaded plugin; on any breach of its contract, leave it out and say why."""
        name = getattr(module, "__name__", repr(module))
        candidate = candidate or _Candidate(name, name, "(this process)", "")
        key = f"{candidate.distribution}:{candidate.name}"
        try:
            if self._manager.register(module, name=key) is None:
                raise PluginError("blocked")
            self._refuse_misspelt(module)
            specs = self._collect(module)
            info = candidate.info("active", provides=self._provides(module, specs))
            self._refuse_duplicates(specs, info)
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            if self._manager.has_plugin(key):
                self._manager.unregister(name=key)
            reason = str(error) if isinstance(error, PluginError) else f"{type(error).__name__}: {error}"
            return candidate.info("failed", " ".join(reason.split()))
        for spec in specs:
            self._specs[type(spec), spec.name] = (spec, info)
        return info

    def _refuse_misspelt(self, module: object) -> None:
        """Raise for an implementation whose name is no hook's."""
        for caller in self._manager.get_hookcallers(module) or []:
            if not caller.has_spec():
                for impl in caller.get_hookimpls():
                    if impl.plugin is module and not impl.optionalhook:
                        raise PluginError(str(UnknownName("hook", caller.name, _hook_names())))

    def _collect(self, module: object) -> list[Spec]:
        """Ask one plugin for its contributions; raise for any that is not what its hook allows."""
        specs: list[Spec] = []
        for hook, kind in _CONTRIBUTIONS.items():
            for impl in getattr(self._manager.hook, hook).get_hookimpls():
                if impl.plugin is not module:
                    continue
                returned = impl.function()
                if not isinstance(returned, list | tuple):
                    raise PluginError(f"{hook} returned {type(returned).__name__}, not a list of {kind.__name__}")
                for spec in returned:
                    if not isinstance(spec, kind):
                        raise PluginError(f"{hook} returned a {type(spec).__name__} where {kind.__name__} is due")
                    _check_spec(spec)
                specs.extend(returned)
        return specs

    def _provides(self, module: object, specs: Sequence[Spec]) -> list[str]:
        hooks = sorted(caller.name for caller in self._manager.get_hookcallers(module) or [])
        return [f"{spec.what} {spec.name}" for spec in specs] + [name for name in hooks if name not in _CONTRIBUTIONS]

    def _refuse_duplicates(self, specs: Sequence[Spec], info: PluginInfo) -> None:
        """Raise where a name is taken already, naming both distributions."""
        seen: set[tuple[type[Spec], str]] = set()
        for spec in specs:
            key = (type(spec), spec.name)
            if key in seen:
                raise PluginError(f"provides {spec.what} {spec.name!r} twice")
            seen.add(key)
            if key in self._specs:
                other = self._specs[key][1]
                raise PluginError(
                    f"{spec.what} {spec.name!r} is provided by both {other.distribution} (plugin {other.name}) and "
                    f"{info.distribution} (plugin {info.name}); disable one with --no-plugin"
                )

    def specs(self, kind: type[SpecT]) -> list[SpecT]:
        """All contributions of one kind, by name."""
        found = [spec for spec, _ in self._specs.values() if isinstance(spec, kind)]
        return sorted(found, key=lambda spec: spec.name)

    def get(self, kind: type[SpecT], name: str, *, where: str | None = None) -> SpecT:
        """The contribution called ``name``; raise ``UnknownName`` with the nearest ones."""
        entry = self._specs.get((kind, name))
        if entry is None:
            raise UnknownName(kind.what, name, [spec.name for spec in self.specs(kind)], where=where)
        spec = entry[0]
        assert isinstance(spec, kind)
        return spec

    def provider(self, spec: Spec) -> PluginInfo:
        """The plugin that contributed ``spec``."""
        return self._specs[type(spec), spec.name][1]

    def plugin(self, name: str) -> PluginInfo:
        """The plugin called ``name``; raise ``UnknownName`` with the nearest ones."""
        for info in self.plugins:
            if info.name == name:
                return info
        raise UnknownName("plugin", name, [info.name for info in self.plugins])

    def require(self, spec: Spec) -> None:
        """Raise ``MissingExtra`` for the first package that ``spec`` needs and that is not installed."""
        for requirement in spec.requires:
            if importlib.util.find_spec(requirement.package) is None:
                raise MissingExtra(f"{spec.what} {spec.name}", requirement.package, requirement.install)

    def load(self, spec: Spec) -> Any:
        """Import what ``spec.impl`` names; raise ``MissingExtra`` or ``PluginError`` where that fails."""
        self.require(spec)
        return self._import(spec, spec.impl)

    def config_model(self, spec: MethodSpec | StepSpec) -> Any:
        """Import the pydantic model that ``spec.config`` names; raise as ``load`` does."""
        self.require(spec)
        return self._import(spec, spec.config)

    def _import(self, spec: Spec, target: str) -> Any:
        try:
            return resolve_import(target)
        except (ImportError, AttributeError) as error:
            info = self.provider(spec)
            raise PluginError(
                f"{spec.what} {spec.name} cannot be loaded from {target!r}: {error}",
                where=f"plugin {info.name} ({info.distribution} {info.version})",
            ) from error

    def resolve_base(self, uri: str) -> Path | None:
        """Ask each plugin for the base that ``uri`` names; the first answer wins."""
        answer = self._manager.hook.ftreg_resolve_base(uri=uri)
        if answer is not None and not isinstance(answer, Path):
            raise PluginError(f"ftreg_resolve_base returned {type(answer).__name__} for {uri!r}, not a Path")
        return answer

    def gate(self, hook: str, **arguments: Any) -> list[Problem]:
        """Ask every gate; an exception, or an answer that is no list of problems, is itself a problem."""
        problems: list[Problem] = []
        for impl in getattr(self._manager.hook, hook).get_hookimpls():
            try:
                returned = impl.function(*(arguments[name] for name in impl.argnames))
                if any(not isinstance(problem, Problem) for problem in returned or ()):
                    raise PluginError(f"{hook} returned what is not a list of Problem")
                problems.extend(returned or ())
            except Exception as error:
                problems.append(Problem(f"gate of plugin {impl.plugin_name} failed: {type(error).__name__}: {error}"))
        return problems

    def notify(self, hook: str, **arguments: Any) -> None:
        """Tell every observer; what one raises is logged and ignored."""
        for impl in getattr(self._manager.hook, hook).get_hookimpls():
            try:
                impl.function(*(arguments[name] for name in impl.argnames))
            except Exception:
                logger.exception("observer %s of plugin %s failed", hook, impl.plugin_name)


def _candidates() -> Iterator[_Candidate]:
    """Every entry point of the group, ftreg's own first, then by distribution and name; each distribution once."""
    found: dict[tuple[str, str], _Candidate] = {}
    for distribution in distributions():
        for point in distribution.entry_points.select(group=GROUP):
            name = _distribution_name(distribution)
            found.setdefault((name, point.name), _Candidate(point.name, point.value, name, distribution.version))
    return iter(
        sorted(found.values(), key=lambda item: (item.distribution != DISTRIBUTION, item.distribution, item.name))
    )


def _distribution_name(distribution: Distribution) -> str:
    return str(distribution.metadata["Name"] or "(unnamed)")


def _hook_names() -> list[str]:
    return [name for name in vars(hookspecs) if name.startswith("ftreg_")]


def _check_spec(spec: Spec) -> None:
    """Raise ``PluginError`` for a spec whose fields cannot be used."""
    if not spec.name or not spec.name.replace("-", "").replace("_", "").isalnum():
        raise PluginError(f"{spec.what} {spec.name!r} has a name that is not letters, digits, '-' and '_'")
    targets = [spec.impl, *([spec.config] if isinstance(spec, MethodSpec | StepSpec) else [])]
    for target in targets:
        module, _, attribute = target.partition(":")
        if not module or not attribute:
            raise PluginError(f"{spec.what} {spec.name!r}: {target!r} is no import string ('package.module:attribute')")


def resolve_import(target: str) -> Any:
    """Import ``package.module`` or ``package.module:attribute``."""
    module, _, attributes = target.partition(":")
    found: Any = importlib.import_module(module)
    for attribute in filter(None, attributes.split(".")):
        found = getattr(found, attribute)
    return found
