"""Gates: the plugins that may refuse a change, and the record of those that have guarded a registry.

A gate that has been asked once is written down. From then on the registry refuses what the gate would have been asked
about for as long as it is not loaded, so that a plugin that breaks, or is left out, opens nothing. Only
``Registry.release_gate`` ends that, and the event log says who did it.
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
    """Raise ``FtregError`` if a gate that has guarded the registry with ``hook`` is not loaded now."""
    loaded = {(plugin.name, plugin.distribution) for plugin in host.gates(hook)}
    absent = [gate for gate in catalog.gates(hook) if (gate.plugin, gate.distribution) not in loaded]
    if absent:
        gate = absent[0]
        raise FtregError(
            f"gate {gate.plugin} ({gate.distribution}) guards this registry and is not loaded: {_why(host, gate)}",
            hint=f"Install or repair {gate.distribution}; if it is to guard this registry no longer: "
            f"ftreg plugins release {gate.plugin}",
        )


def unrecorded(catalog: Catalog, host: PluginHost, hook: str) -> list[PluginInfo]:
    """The loaded gates that implement ``hook`` and are not written down yet."""
    known = {(gate.plugin, gate.distribution) for gate in catalog.gates(hook)}
    return [plugin for plugin in host.gates(hook) if (plugin.name, plugin.distribution) not in known]


def ask(host: PluginHost, hook: str, refused: str, **arguments: Any) -> None:
    """Raise ``FtregError`` if any gate has a problem; ``refused`` says what cannot be done then."""
    for plugin in host.plugins:
        if plugin.state == "failed":
            _warn(plugin)
    problems = host.gate(hook, **arguments)
    if problems:
        reasons = "; ".join(problem.message for problem in problems)
        raise FtregError(f"{refused}: {reasons}", hint="\n  ".join(_hints(problems)) or None)


def enlist(catalog: Catalog, plugins: Sequence[PluginInfo], hook: str) -> None:
    """Write gates down, in the caller's transaction."""
    for plugin in plugins:
        catalog.append(Event.now("gate_enlisted", plugin=plugin.name, distribution=plugin.distribution, hook=hook))


def release(catalog: Catalog, plugin: str) -> None:
    """Strike a gate off, in the caller's transaction; raise ``UnknownName`` if no gate of that name guards."""
    gates = catalog.gates()
    if plugin not in {gate.plugin for gate in gates}:
        raise UnknownName("gate of this registry", plugin, {gate.plugin for gate in gates})
    catalog.append(Event.now("gate_released", plugin=plugin))


@cache
def _warn(plugin: PluginInfo) -> None:
    """Say once in a process that a plugin which failed to load may be a gate that is not asked."""
    logger.warning("%s failed to load; if it is a gate, it is not asked: %s", plugin.origin, plugin.reason)


def _why(host: PluginHost, gate: Gate) -> str:
    """Say why a gate is not loaded."""
    for plugin in host.plugins:
        if (plugin.name, plugin.distribution) == (gate.plugin, gate.distribution):
            if plugin.state == "active":
                return f"version {plugin.version} does not implement {gate.hook}"
            return f"it is {plugin.state}: {plugin.reason}"
    return "it is not installed"


def _hints(problems: Sequence[Problem]) -> list[str]:
    return [problem.hint for problem in problems if problem.hint]
