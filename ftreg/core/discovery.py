"""Discovery: which plugins the installed distributions declare, without importing any of them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import Distribution, EntryPoints, distributions

GROUP = "ftreg"
DISTRIBUTION = "ftreg"
IN_PROCESS = "this process"
"""Stands in for the distribution of a plugin that was registered from Python."""


@dataclass(frozen=True)
class PluginInfo:
    """A plugin and what became of it.

    Attributes:
        name: The name of its entry point.
        module: The module that the entry point loads.
        distribution: The distribution that provides it.
        version: That distribution's version.
        state: ``active``, ``disabled`` or ``failed``.
        reason: Why it is not active; empty if it is.
        provides: Its contributions, such as ``"method lora"``, and the other hooks that it implements.
    """

    name: str
    module: str
    distribution: str
    version: str
    state: str
    reason: str = ""
    provides: tuple[str, ...] = ()

    @property
    def origin(self) -> str:
        """The plugin with its distribution and version, for messages."""
        return f"plugin {self.name} ({self.distribution} {self.version}".rstrip() + ")"


@dataclass(frozen=True)
class Candidate:
    """An entry point that may become a plugin; ``fault`` says why it cannot be loaded at all."""

    name: str
    module: str
    distribution: str
    version: str
    fault: str = ""

    def info(self, state: str, reason: str = "", provides: Iterable[str] = ()) -> PluginInfo:
        """Describe this candidate as a plugin in the given state."""
        return PluginInfo(self.name, self.module, self.distribution, self.version, state, reason, tuple(provides))


def candidates() -> list[Candidate]:
    """List the entry points of the group, ftreg's own first, then by distribution and name.

    If a distribution is on ``sys.path`` more than once, the first copy counts, as it does for imports.
    """
    found: dict[str, list[Candidate]] = {}
    for distribution in distributions():
        # Search the text first: parsing the entry points and metadata of every distribution takes much longer.
        text = distribution.read_text("entry_points.txt")
        if text and f"[{GROUP}]" in text:
            metadata = distribution.metadata
            name, version = str(metadata["Name"] or "(unnamed)"), str(metadata["Version"] or "")
            found.setdefault(name, _declared(distribution, name, version))
    flat = [candidate for declared in found.values() for candidate in declared]
    return sorted(flat, key=lambda item: (item.distribution != DISTRIBUTION, item.distribution, item.name))


def _declared(distribution: Distribution, name: str, version: str) -> list[Candidate]:
    """List the entry points of one distribution; if they cannot be read, return one candidate with a fault."""
    try:
        points: EntryPoints = distribution.entry_points.select(group=GROUP)
    except (ValueError, TypeError) as error:
        return [Candidate(name, "", name, version, fault=f"its entry_points.txt cannot be read: {error}")]
    return [Candidate(point.name, point.value, name, version) for point in points]
