"""The context: the registry to work in, with its plugins, and where to report progress."""

from __future__ import annotations

from dataclasses import dataclass, field

from ftreg.core.host import PluginHost
from ftreg.core.types import NullProgress, Progress
from ftreg.registry import Registry


@dataclass(frozen=True)
class Context:
    """What every part of ftreg works with.

    Attributes:
        registry: Where versions are read and published.
        progress: Where long work reports how far it is.
    """

    registry: Registry
    progress: Progress = field(default_factory=NullProgress)

    @property
    def host(self) -> PluginHost:
        """The plugins: always those that guard the registry."""
        return self.registry.host
