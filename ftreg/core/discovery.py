"""Discovery: which plugins the installed distributions declare, without importing any of them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import Distribution, EntryPoints, distributions

GROUP = "ftreg"
DISTRIBUTION = "ftreg"
IN_PROCESS = "this process"
"""What stands for the distribution of a plugin that was registered from Python."""


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

    @property
    def origin(self) -> str:
        """The plugin with its distribution and version, for messages."""
        return f"plugin {self.name} ({self.distribution} {self.version}".rstrip() + ")"


@dataclass(frozen=True)
class Candidate:
    """An entry point that may become a plugin; ``fault`` says why it cannot even be tried."""

    name: str
    module: str
    distribution: str
    version: str
    fault: str = ""

    def info(self, state: str, reason: str = "", provides: Iterable[str] = ()) -> PluginInfo:
        """This candidate, with what became of it."""
        return PluginInfo(self.name, self.module, self.distribution, self.version, state, reason, tuple(provides))


def candidates() -> list[Candidate]:
    """Every entry point of the group, ftreg's own first, then by distribution and name.

    Where a distribution is found more than once on ``sys.path``, the first one counts, as it does for imports.
    """
    found: dict[str, list[Candidate]] = {}
    for distribution in distributions():
        # A look at the text first: parsing the entry points and metadata of every distribution costs far more.
        text = distribution.read_text("entry_points.txt")
        if text and f"[{GROUP}]" in text:
            metadata = distribution.metadata
            name, version = str(metadata["Name"] or "(unnamed)"), str(metadata["Version"] or "")
            found.setdefault(name, _declared(distribution, name, version))
    flat = [candidate for declared in found.values() for candidate in declared]
    return sorted(flat, key=lambda item: (item.distribution != DISTRIBUTION, item.distribution, item.name))


def _declared(distribution: Distribution, name: str, version: str) -> list[Candidate]:
    """The entry points of one distribution; one candidate with a fault where they cannot be read."""
    try:
        points: EntryPoints = distribution.entry_points.select(group=GROUP)
    except (ValueError, TypeError) as error:
        return [Candidate(name, "", name, version, fault=f"its entry_points.txt cannot be read: {error}")]
    return [Candidate(point.name, point.value, name, version) for point in points]
