"""Registration: takes loaded plugins in, checks them, and keeps what they contribute."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pluggy

from ftreg.core import hookspecs
from ftreg.core.discovery import Candidate, PluginInfo
from ftreg.core.errors import FtregError, PluginError, UnknownName
from ftreg.core.guard import PluginGuard, describe
from ftreg.core.specs import CommandSpec, EngineSpec, FormatSpec, MethodSpec, MetricSpec, Spec, StepSpec

KINDS: Mapping[str, type[Spec]] = {
    "ftreg_methods": MethodSpec,
    "ftreg_steps": StepSpec,
    "ftreg_engines": EngineSpec,
    "ftreg_formats": FormatSpec,
    "ftreg_metrics": MetricSpec,
    "ftreg_commands": CommandSpec,
}
"""The hooks that contribute, each with the type of spec that it returns."""


class Registrations:
    """The plugins of a host, with their contributions and hook implementations.

    Args:
        guard: Runs the plugins' code.
        commands: The command line's own commands, whose names no plugin may take.

    Attributes:
        plugins: All plugins that were found, in the order in which they were tried.
        specs: The contributions by type and name, each with its plugin.
    """

    def __init__(self, guard: PluginGuard, commands: Iterable[str] = ()) -> None:
        self._guard = guard
        self._commands = frozenset(commands)
        self._manager = pluggy.PluginManager("ftreg")
        self._manager.add_hookspecs(hookspecs)
        self.plugins: list[PluginInfo] = []
        self.specs: dict[tuple[type[Spec], str], tuple[Spec, PluginInfo]] = {}

    def add(self, module: object, candidate: Candidate) -> PluginInfo:
        """Register a loaded plugin; if it breaks its contract, leave it out and return the reason."""
        plugin = candidate.info("failed")
        try:
            specs, info = self._guard.run(plugin, "register", lambda: self._enter(module, candidate))
        except FtregError as error:
            return self.leave_out(candidate, "failed", describe(error.__cause__ or error))
        for spec in specs:
            self.specs[type(spec), spec.name] = (spec, info)
        self.plugins.append(info)
        return info

    def leave_out(self, candidate: Candidate, state: str, reason: str) -> PluginInfo:
        """Note a plugin that is not loaded, and why."""
        info = candidate.info(state, reason)
        self.plugins.append(info)
        return info

    def _enter(self, module: object, candidate: Candidate) -> tuple[list[Spec], PluginInfo]:
        """Register a plugin with pluggy and collect its contributions; undo this, and raise, if anything is wrong."""
        self._refuse_taken(candidate, module)
        self._manager.register(module, name=candidate.name)
        try:
            self._check_hooks(module)
            specs = self._collect(module, candidate.info("failed"))
            info = candidate.info("active", provides=self._provides(module, specs))
            self._refuse_duplicates(specs, info)
        except BaseException:
            self._manager.unregister(name=candidate.name)
            raise
        return specs, info

    def _refuse_taken(self, candidate: Candidate, module: object) -> None:
        """Raise if another plugin has the same name or is the same module."""
        if self._manager.has_plugin(candidate.name):
            other = self.plugin(candidate.name)
            raise PluginError(
                f"a plugin {candidate.name!r} is provided by both {other.distribution} and {candidate.distribution}; "
                "rename one of the entry points"
            )
        if taken_by := self._manager.get_name(module):
            raise PluginError(f"{candidate.module} is already loaded as plugin {taken_by!r}")

    def _check_hooks(self, module: object) -> None:
        """Raise if a hook of the module would silently never be called."""
        callers = self._manager.get_hookcallers(module) or []
        for caller in callers:
            for impl in caller.get_hookimpls():
                if impl.plugin is not module:
                    continue
                if not caller.has_spec() and not impl.optionalhook:
                    raise PluginError(str(UnknownName("hook", caller.name, _hook_names())))
                if impl.wrapper or impl.hookwrapper:
                    raise PluginError(f"{caller.name} is a hook wrapper, which ftreg does not support")
        for name in _hook_names():
            if callable(hook := getattr(module, name, None)) and not hasattr(hook, "ftreg_impl"):
                raise PluginError(f"{name} is not marked with @hookimpl")
        if not callers:
            raise PluginError("implements no hook; mark its hooks with @hookimpl")

    def _collect(self, module: object, plugin: PluginInfo) -> list[Spec]:
        """Ask one plugin for its contributions; raise if any of them has the wrong type."""
        specs: list[Spec] = []
        for hook, kind in KINDS.items():
            for impl in self.implementations(hook):
                if impl.plugin is not module:
                    continue
                returned = self.call(plugin, hook, impl)
                if not isinstance(returned, list | tuple):
                    raise PluginError(f"{hook} returned {type(returned).__name__}, not a list of {kind.__name__}")
                for spec in returned:
                    if type(spec) is not kind:
                        raise PluginError(f"{hook} returned a {type(spec).__name__} instead of a {kind.__name__}")
                specs.extend(returned)
        return specs

    def _provides(self, module: object, specs: Sequence[Spec]) -> list[str]:
        hooks = sorted(caller.name for caller in self._manager.get_hookcallers(module) or [])
        return [f"{spec.what} {spec.name}" for spec in specs] + [name for name in hooks if name not in KINDS]

    def _refuse_duplicates(self, specs: Sequence[Spec], info: PluginInfo) -> None:
        """Raise if a contribution's name is taken already; the error names both distributions."""
        seen: set[tuple[type[Spec], str]] = set()
        for spec in specs:
            key = (type(spec), spec.name)
            if key in seen:
                raise PluginError(f"provides {spec.what} {spec.name!r} twice")
            seen.add(key)
            if isinstance(spec, CommandSpec) and spec.name in self._commands:
                raise PluginError(f"command {spec.name!r} is one of ftreg's own")
            if key in self.specs:
                other = self.specs[key][1]
                raise PluginError(
                    f"{spec.what} {spec.name!r} is provided by both {other.distribution} (plugin {other.name}) and "
                    f"{info.distribution} (plugin {info.name}); leave one out with `disabled`"
                )

    def plugin(self, name: str) -> PluginInfo:
        """Return the plugin called ``name``; raise ``UnknownName`` if there is none."""
        for info in self.plugins:
            if info.name == name:
                return info
        raise UnknownName("plugin", name, [info.name for info in self.plugins])

    def implementations(self, hook: str) -> list[pluggy.HookImpl]:
        """Return the implementations of ``hook`` in pluggy's order."""
        caller: pluggy.HookCaller = getattr(self._manager.hook, hook)
        return caller.get_hookimpls()[::-1]

    def call(self, plugin: PluginInfo, hook: str, impl: pluggy.HookImpl, **arguments: Any) -> Any:
        """Call one plugin's hook with the arguments that it declares."""
        given = [arguments[name] for name in impl.argnames]
        return self._guard.run(plugin, f"{hook}({', '.join(impl.argnames)})", lambda: impl.function(*given))


def _hook_names() -> list[str]:
    return [name for name in vars(hookspecs) if name.startswith("ftreg_")]
