"""The plugin host: loads plugins, calls them through a guard, and keeps what they contribute.

Plugins are found through the entry-point group ``ftreg``, the built-in ones like all others. A plugin that cannot be
imported, misspells a hook, returns something invalid or uses a name that is taken is left out and reported; the other
plugins are not affected.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from types import NoneType
from typing import TYPE_CHECKING, Any, TypeVar, cast

from ftreg.core.discovery import DISTRIBUTION, IN_PROCESS, Candidate, PluginInfo, candidates
from ftreg.core.errors import FtregError, InputError, MissingExtra, PluginError, UnknownName
from ftreg.core.guard import PluginGuard, broken, describe, resolve_import
from ftreg.core.registration import Registrations
from ftreg.core.requirements import Requirement
from ftreg.core.specs import ConfiguredSpec, EngineSpec, MethodSpec, MetricSpec, Spec, StepSpec
from ftreg.core.types import Problem, RemoteBase

if TYPE_CHECKING:
    from pydantic import BaseModel

logger = logging.getLogger("ftreg.plugins")

_SLOW_IMPORT = 0.3  # CPU seconds; ftreg --help takes about 0.1 without plugins

SpecT = TypeVar("SpecT", bound=Spec)
ResultT = TypeVar("ResultT")


class PluginHost:
    """All plugins of this process.

    Args:
        disabled: Plugin names to leave out (``--no-plugin``).
        only: Names of the third-party plugins to load; None loads all, an empty set none (``FTREG_PLUGINS``).
        trace: Write every call into a plugin and its outcome to standard error (``FTREG_TRACE_PLUGINS``).
        commands: The command line's own commands, whose names no plugin may take.

    Raises:
        UnknownName: ``disabled`` or ``only`` names a plugin that is not installed.
    """

    def __init__(
        self,
        *,
        disabled: Iterable[str] = (),
        only: Iterable[str] | None = None,
        trace: bool = False,
        commands: Iterable[str] = (),
    ) -> None:
        self._disabled = frozenset(disabled)
        self._only = None if only is None else frozenset(only)
        self._guard = PluginGuard(trace=trace)
        self._registered = Registrations(self._guard, commands)
        for candidate in candidates():
            self._admit(candidate)
        self._refuse_unknown(self._disabled, "disabled")
        self._refuse_unknown(self._only or frozenset(), "FTREG_PLUGINS")

    @classmethod
    def from_environment(cls, disabled: Iterable[str] = (), commands: Iterable[str] = ()) -> PluginHost:
        """Create a host that follows the variables ``FTREG_PLUGINS`` and ``FTREG_TRACE_PLUGINS``."""
        only = os.environ.get("FTREG_PLUGINS")
        return cls(
            disabled=disabled,
            only=None if only is None else [name.strip() for name in only.split(",") if name.strip()],
            trace=os.environ.get("FTREG_TRACE_PLUGINS", "") not in ("", "0"),
            commands=commands,
        )

    def register(self, module: object) -> PluginInfo:
        """Register a plugin that this process defines; it is checked and guarded like an installed one."""
        name = getattr(module, "__name__", type(module).__name__)
        return self._registered.add(module, Candidate(name, name, IN_PROCESS, ""))

    @property
    def plugins(self) -> list[PluginInfo]:
        """All plugins that were found, those that failed or are disabled included."""
        return self._registered.plugins

    def plugin(self, name: str) -> PluginInfo:
        """Return the plugin called ``name``; raise ``UnknownName`` if there is none."""
        return self._registered.plugin(name)

    def _refuse_unknown(self, names: frozenset[str], where: str) -> None:
        known = [plugin.name for plugin in self.plugins]
        for name in sorted(names.difference(known)):
            raise UnknownName("plugin", name, known, where=where)

    def _admit(self, candidate: Candidate) -> None:
        """Load one plugin if it is wanted, and keep its contributions if all of them are valid."""
        state, reason = self._obstacle(candidate)
        if not state:
            started = time.process_time()
            try:
                module = self._guard.run(
                    candidate.info("failed"), f"import {candidate.module}", lambda: resolve_import(candidate.module)
                )
            except FtregError as error:
                state, reason = "failed", f"import failed: {describe(error.__cause__ or error)}"
            else:
                _warn_if_slow(candidate, time.process_time() - started)
                self._registered.add(module, candidate)
        if state:
            self._registered.leave_out(candidate, state, reason)

    def _obstacle(self, candidate: Candidate) -> tuple[str, str]:
        """Return the state and the reason of a plugin that is not to be imported; empty if it is."""
        if candidate.name in self._disabled:
            return "disabled", "on request"
        if self._only is not None and candidate.distribution != DISTRIBUTION and candidate.name not in self._only:
            return "disabled", "by FTREG_PLUGINS"
        return ("failed", candidate.fault) if candidate.fault else ("", "")

    def specs(self, kind: type[SpecT]) -> list[SpecT]:
        """Return all contributions of one kind: ftreg's own first, then by name, so that plugins change no default."""
        found = [(spec, plugin) for spec, plugin in self._registered.specs.values() if isinstance(spec, kind)]
        found.sort(key=lambda pair: (pair[1].distribution != DISTRIBUTION, pair[0].name))
        return [spec for spec, _ in found]

    def get(self, kind: type[SpecT], name: str, *, where: str | None = None) -> SpecT:
        """Return the contribution called ``name``; raise ``UnknownName`` if there is none."""
        entry = self._registered.specs.get((kind, name))
        if entry is None:
            raise self.unknown(kind.what, name, [spec.name for spec in self.specs(kind)], where=where)
        spec = entry[0]
        assert isinstance(spec, kind)
        return spec

    def unknown(self, what: str, name: str, known: Iterable[str], *, where: str | None = None) -> UnknownName:
        """Return the error for a contribution that no plugin makes; it names the plugins that failed to load."""
        error = UnknownName(what, name, known, where=where)
        if failed := [plugin.name for plugin in self.plugins if plugin.state == "failed"]:
            failure = f"Failed to load: plugin {', '.join(failed)} (`registry.host.plugins` says why)."
            error.hint = f"{error.hint} {failure}" if error.hint else failure
        return error

    def provider(self, spec: Spec) -> PluginInfo:
        """Return the plugin that contributed ``spec``."""
        return self._registered.specs[type(spec), spec.name][1]

    def missing(self, spec: Spec) -> list[Requirement]:
        """Return the requirements of ``spec`` that are not installed."""
        return [requirement for requirement in spec.requires if not requirement.is_installed]

    def require(self, spec: Spec) -> None:
        """Raise ``MissingExtra`` if a requirement of ``spec`` is not installed."""
        for requirement in self.missing(spec):
            raise MissingExtra(f"{spec.what} {spec.name}", requirement.distribution, requirement.install)

    def load(self, spec: Spec) -> Any:
        """Import ``spec.impl``; raise ``MissingExtra`` or ``PluginError`` if that fails."""
        self.require(spec)
        return self._import(spec, spec.impl)

    def call(self, spec: Spec, *arguments: Any, returns: type) -> Any:
        """Import ``spec.impl``, call it and check the type of its result; raise as ``load`` and ``run`` do."""
        function = self.load(spec)
        return self.run(spec, spec.impl, lambda: function(*arguments), returns=returns)

    def run(self, spec: Spec, what: str, call: Callable[[], Any], *, returns: type) -> Any:
        """Run code of the plugin that contributed ``spec``, and return its result.

        Args:
            spec: The contribution that the code belongs to.
            what: The function's name, for messages.
            call: The code.
            returns: The type that the result must have.

        Raises:
            FtregError: The code raised it on purpose; it is passed on unchanged.
            PluginError: The code raised anything else, or its result has another type.
        """
        result = self._guard.run(self.provider(spec), what, call)
        if not isinstance(result, returns):
            raise self.broken(spec, f"{what} returned {type(result).__name__}, not {returns.__name__}")
        return result

    def check_files(self, engine: EngineSpec, folder: Path) -> None:
        """Let an engine check files that it should load; it raises ``InputError`` if it cannot. See also ``run``."""
        if engine.check is not None:
            check = self._import(engine, engine.check)
            self.run(engine, engine.check, lambda: check(folder), returns=NoneType)

    def check_model(self, spec: MethodSpec | StepSpec, folder: Path, config: BaseModel, *, where: str) -> None:
        """Let a method or step check the checkpoint that it would work on.

        Args:
            spec: The method or step.
            folder: The checkpoint.
            config: The validated configuration of the method or step.
            where: What the user calls the checkpoint, for errors; its folder may be one of the registry's.

        Raises:
            InputError: The method or step cannot work on it.
        """
        if spec.check is None:
            return
        check = self._import(spec, spec.check)
        try:
            self.run(spec, spec.check, lambda: check(folder, config), returns=NoneType)
        except InputError as error:
            error.where = where
            raise

    def broken(self, spec: Spec, problem: str) -> PluginError:
        """Return the error for a contribution that broke its contract, with its plugin and distribution."""
        return broken(self.provider(spec), f"{spec.what} {spec.name}: {problem}")

    def config_model(self, spec: ConfiguredSpec) -> type[BaseModel]:
        """Import the pydantic model ``spec.config``; raise as ``load`` does."""
        from pydantic import BaseModel

        self.require(spec)
        model = self._import(spec, spec.config)
        if not (isinstance(model, type) and issubclass(model, BaseModel)):
            raise self.broken(spec, f"its config {spec.config} is not a pydantic model")
        if isinstance(spec, StepSpec) and (taken := sorted(spec.keys & model.model_fields.keys())):
            raise self.broken(spec, f"its config {spec.config} has the field {taken[0]!r}, which recipes use as a key")
        return model

    def settings_model(self, name: str) -> type[BaseModel] | None:
        """Return the model of the settings of the method, step or metric ``name``; None if none can be loaded."""
        specs: list[ConfiguredSpec] = [*self.specs(MethodSpec), *self.specs(StepSpec), *self.specs(MetricSpec)]
        found = [spec for spec in specs if spec.name == name]
        with suppress(FtregError, IndexError):
            return self.config_model(found[0])
        return None

    def configure(self, spec: ConfiguredSpec, values: Mapping[str, Any], *, where: str) -> BaseModel:
        """Validate the settings of a method, step or metric with its own model.

        Raises:
            RecipeError: A setting is unknown or has an invalid value.
            MissingExtra: A distribution that the plugin needs, with these settings, is not installed.
            PluginError: The plugin's model cannot be loaded, or fails in another way.
        """
        from pydantic import BaseModel

        from ftreg.core.recipe import validate

        model = self.config_model(spec)
        config = cast(
            "BaseModel",
            self.run(spec, spec.config, lambda: validate(model, values, where=where), returns=BaseModel),
        )
        for requirement in self.requirements(spec, config):
            if not requirement.is_installed:
                what = f"{spec.what} {spec.name} with these settings"
                raise MissingExtra(what, requirement.distribution, requirement.install)
        return config

    def requirements(self, spec: ConfiguredSpec, config: BaseModel) -> tuple[Requirement, ...]:
        """Return what ``spec`` needs with the settings ``config``; raise ``PluginError`` if these cannot say it."""
        from ftreg.core.recipe import Config

        if not isinstance(config, Config):
            return spec.requires
        return (*spec.requires, *self.run(spec, f"{spec.config}.requires", config.requires, returns=tuple))

    def _import(self, spec: Spec, target: str) -> Any:
        try:
            return self._guard.run(self.provider(spec), f"import {target}", lambda: resolve_import(target))
        except PluginError as error:
            cause = error.__cause__ or error
            raise self.broken(spec, f"cannot be loaded from {target!r}: {describe(cause)}") from cause

    def resolve_base(self, uri: str) -> Path | None:
        """Let the plugins fetch the base ``uri``; return the first folder that one returns, or None.

        Raises:
            FtregError: A plugin raised it on purpose; it is passed on unchanged.
            PluginError: A plugin raised anything else, or returned something that is not a path.
        """
        return self._first("ftreg_resolve_base", Path, uri=uri)

    def find_base(self, uri: str) -> RemoteBase | None:
        """Let the plugins look at the base ``uri`` without fetching it; raises as ``resolve_base`` does."""
        return self._first("ftreg_find_base", RemoteBase, uri=uri)

    def _first(self, hook: str, returns: type[ResultT], *, uri: str) -> ResultT | None:
        """Return the first answer of a plugin that is not None, after checking its type."""
        for impl in self._registered.implementations(hook):
            plugin = self.plugin(impl.plugin_name)
            answer = self._registered.call(plugin, hook, impl, uri=uri)
            if isinstance(answer, returns):
                return answer
            if answer is not None:
                expected = f"not a {returns.__name__}"
                raise broken(plugin, f"{hook} returned {type(answer).__name__} for {uri!r}, {expected}")
        return None

    def gates(self, hook: str) -> list[PluginInfo]:
        """Return the plugins that implement the gate ``hook``."""
        return [self.plugin(impl.plugin_name) for impl in self._registered.implementations(hook)]

    def gate(self, hook: str, **arguments: Any) -> list[Problem]:
        """Call every gate; one that raises, or does not return a list of problems, counts as a problem itself."""
        problems: list[Problem] = []
        for impl in self._registered.implementations(hook):
            plugin = self.plugin(impl.plugin_name)
            try:
                returned = self._registered.call(plugin, hook, impl, **arguments)
            except FtregError as error:
                problems.append(_failed(plugin, describe(error.__cause__ or error)))
                continue
            if not isinstance(returned, list | tuple):
                problems.append(_failed(plugin, f"{hook} returned {type(returned).__name__}, not a list of Problem"))
            elif wrong := [item for item in returned if not isinstance(item, Problem)]:
                problems.append(_failed(plugin, f"{hook} returned {wrong[0]!r}, not a Problem, in its list"))
            else:
                problems.extend(returned)
        return problems

    def notify(self, hook: str, **arguments: Any) -> None:
        """Call every observer; what one raises is logged and ignored."""
        for impl in self._registered.implementations(hook):
            try:
                self._registered.call(self.plugin(impl.plugin_name), hook, impl, **arguments)
            except FtregError as error:
                logger.warning(
                    "plugin %s: %s failed and was ignored: %s",
                    impl.plugin_name,
                    hook,
                    describe(error.__cause__ or error),
                    exc_info=logger.isEnabledFor(logging.DEBUG),
                )


def _failed(plugin: PluginInfo, reason: str) -> Problem:
    """Return the problem to report for a gate that does not work."""
    hint = f"Repair the plugin, or upgrade {plugin.distribution}."
    return Problem(f"the gate of {plugin.origin} failed: {reason}", hint=hint)


def _warn_if_slow(candidate: Candidate, seconds: float) -> None:
    """Log a warning about a plugin whose import takes so long that every command is slow."""
    if seconds > _SLOW_IMPORT:
        logger.warning(
            "%s takes %.1f s of CPU to import, in every command; its module should import heavy libraries only inside "
            "its implementations.",
            candidate.info("active").origin,
            seconds,
        )
