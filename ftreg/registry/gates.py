"""Gates: plugins that may refuse a change, and the record of the gates that have guarded a registry.

A gate is recorded in the registry when it is first called. From then on, the changes that it decides about are refused
while it is not loaded, so that a plugin that breaks, or is left out, never lets anything through. Only
``Registry.release_gate`` ends this, and the event log says who called it.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import cache
from typing import Any

from ftreg.core.discovery import PluginInfo
from ftreg.core.errors import FtregError, UnknownName
from ftreg.core.host import PluginHost
from ftreg.core.types import Problem
from ftreg.registry.catalog import Catalog
from ftreg.registry.records import Event, Gate

logger = logging.getLogger("ftreg.registry")


def check_loaded(catalog: Catalog, host: PluginHost, hook: str) -> None:
    """Raise ``FtregError`` if a gate on record for ``hook`` is not loaded."""
    loaded = {(plugin.name, plugin.distribution) for plugin in host.gates(hook)}
    absent = [gate for gate in catalog.gates(hook) if (gate.plugin, gate.distribution) not in loaded]
    if absent:
        gate = absent[0]
        raise FtregError(
            f"plugin {gate.plugin} ({gate.distribution}) guards this registry and is not loaded: {_why(host, gate)}",
            hint=f"Install or repair {gate.distribution}; to do without its gate, run "
            f"`registry.release_gate({gate.plugin!r})`",
        )


def unrecorded(catalog: Catalog, host: PluginHost, hook: str) -> list[PluginInfo]:
    """Return the loaded gates that implement ``hook`` and are not on record yet."""
    known = {(gate.plugin, gate.distribution) for gate in catalog.gates(hook)}
    return [plugin for plugin in host.gates(hook) if (plugin.name, plugin.distribution) not in known]


def ask(host: PluginHost, hook: str, refused: str, own: Sequence[Problem] = (), **arguments: Any) -> None:
    """Call the gates of ``hook``; raise ``FtregError``, whose message starts with ``refused``, for their problems.

    ``own`` are the problems that the registry itself has found.
    """
    for plugin in host.plugins:
        if plugin.state == "failed":
            _warn(plugin)
    problems = [*own, *host.gate(hook, **arguments)]
    if problems:
        reasons = "; ".join(problem.message for problem in problems)
        raise FtregError(f"{refused}: {reasons}", hint="\n  ".join(_hints(problems)) or None)


def enlist(catalog: Catalog, plugins: Sequence[PluginInfo], hook: str) -> None:
    """Record gates, in the caller's transaction."""
    for plugin in plugins:
        catalog.append(Event.now("gate_enlisted", plugin=plugin.name, distribution=plugin.distribution, hook=hook))


def release(catalog: Catalog, plugin: str) -> None:
    """Strike a gate off the record, in the caller's transaction; raise ``UnknownName`` if it is not on record."""
    gates = catalog.gates()
    if plugin not in {gate.plugin for gate in gates}:
        raise UnknownName("gate", plugin, {gate.plugin for gate in gates})
    catalog.append(Event.now("gate_released", plugin=plugin))


@cache
def _warn(plugin: PluginInfo) -> None:
    """Warn, once in a process, that a plugin which failed to load may be a gate that is not asked."""
    logger.warning("%s failed to load; if it is a gate, it is not asked: %s", plugin.origin, plugin.reason)


def _why(host: PluginHost, gate: Gate) -> str:
    """Say why a gate is not loaded."""
    for plugin in host.plugins:
        if (plugin.name, plugin.distribution) == (gate.plugin, gate.distribution):
            if plugin.state == "active":
                return f"version {plugin.version} does not implement {gate.hook}"
            return plugin.reason if plugin.state == "failed" else f"it is {plugin.state} {plugin.reason}"
    return "it is not installed"


def _hints(problems: Sequence[Problem]) -> list[str]:
    return [problem.hint for problem in problems if problem.hint]
