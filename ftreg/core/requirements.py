"""Requirements: the distributions that something needs, whether they are installed, and in which versions."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import metadata


@dataclass(frozen=True)
class Requirement:
    """A distribution that something needs.

    Attributes:
        distribution: Its name, as ``pip list`` shows it.
        install: What to ``pip install`` to get it, such as ``ftreg[train]``.
        module: The name it is imported by; by default the distribution's name with underscores. Any distribution that
            provides this module will do, as onnxruntime-gpu provides ``onnxruntime``.
    """

    distribution: str
    install: str
    module: str = ""

    @property
    def importable(self) -> str:
        """The name it is imported by."""
        return self.module or self.distribution.replace("-", "_")

    @property
    def is_installed(self) -> bool:
        """Whether the module can be found; for a dotted name, its parent packages are imported."""
        try:
            return importlib.util.find_spec(self.importable) is not None
        except (ImportError, ValueError):
            return False

    @property
    def provider(self) -> str | None:
        """The installed distribution that provides the module; None if there is none."""
        try:
            return str(metadata.distribution(self.distribution).metadata["Name"])
        except metadata.PackageNotFoundError:
            others = metadata.packages_distributions().get(self.importable.partition(".")[0], [])
            return others[0] if others else None


def installed_versions(requirements: Iterable[Requirement]) -> dict[str, str | None]:
    """Return the installed versions of ``requirements`` by distribution; None for one that is not installed."""
    versions: dict[str, str | None] = {}
    for requirement in requirements:
        provider = requirement.provider
        versions[provider or requirement.distribution] = metadata.version(provider) if provider else None
    return versions
