"""The context: the registry to work in, its plugins, and where to report progress."""

from __future__ import annotations

from dataclasses import dataclass, field

from ftreg.core.host import PluginHost
from ftreg.core.types import NullProgress, Progress
from ftreg.registry import Registry


@dataclass(frozen=True)
class Context:
    """What all operations need: a registry, its plugins and a progress report.

    Attributes:
        registry: The registry in which versions are read and published.
        progress: Where long work reports its progress.
    """

    registry: Registry
    progress: Progress = field(default_factory=NullProgress)

    @property
    def host(self) -> PluginHost:
        """The plugins; always those that guard the registry."""
        return self.registry.host
