"""Upkeep: gives up files that can be made again, makes them again, and says what takes how many bytes."""

from __future__ import annotations

from dataclasses import dataclass

from ftreg.api.opening import opened
from ftreg.core.types import Progress, Version
from ftreg.pipeline.eviction import Eviction, evict_version, find_evictable
from ftreg.registry import GcReport, Registry, Usage

__all__ = ["Cleanup", "DiskUsage", "Eviction", "du", "evict", "gc", "restore"]


@dataclass(frozen=True)
class Cleanup:
    """What ``gc`` freed, or would free.

    Attributes:
        evicted: The versions whose files were given up.
        report: What no version needed.
    """

    evicted: tuple[Eviction, ...]
    report: GcReport


@dataclass(frozen=True)
class DiskUsage:
    """What takes how many bytes, and what could be saved.

    Attributes:
        usage: What takes how many bytes.
        evictable: The versions that ``gc`` would evict, with the bytes that nothing else needs.
    """

    usage: Usage
    evictable: tuple[Eviction, ...]

    @property
    def could_save(self) -> int:
        """Bytes that evicting these versions would free."""
        return sum(each.size for each in self.evictable)


def evict(ref: str, *, registry: Registry | None = None, progress: Progress | None = None) -> Eviction:
    """Give up the files of ``ref``; they are made again, and checked, when it is next opened.

    The manifest, the lineage and the evidence stay, as do files that other versions need.

    Raises:
        InputError: The newest replay of ``ref`` was not bit-exact, or other packages are installed now, or what it was
            made from is damaged.
    """
    with opened(registry, progress) as context:
        return evict_version(context, ref)


def restore(ref: str, *, registry: Registry | None = None, progress: Progress | None = None) -> Version:
    """Make the files of ``ref`` again if they were given up; whatever opens a version does so too.

    Raises:
        CorruptRegistry: The files that are made now are not those that were given up.
    """
    with opened(registry, progress) as context:
        return context.registry.get(context.registry.source(ref).digest)


def gc(
    *,
    rebuildable: bool = False,
    grace: float = 3600.0,
    runs: bool = False,
    dry_run: bool = False,
    registry: Registry | None = None,
    progress: Progress | None = None,
) -> Cleanup:
    """Free what no version needs; with ``rebuildable``, also the files of versions that can be made again.

    Args:
        rebuildable: Evict each version whose newest replay was bit-exact with the packages installed now, unless an
            alias points to it or the replay is younger than ``grace``.
        grace: Keep what is younger than this many seconds.
        runs: Free the checkpoints of unfinished trainings too.
        dry_run: Only report what would be freed.
        registry: The registry; by default the default registry.
        progress: Where to report progress.
    """
    with opened(registry, progress) as context:
        versions = find_evictable(context, grace=grace) if rebuildable else []
        if dry_run:
            evicted = _evictable(context.registry.usage(), versions)
        else:
            evicted = tuple(evict_version(context, version.ref) for version in versions)
        return Cleanup(evicted, context.registry.gc(grace=grace, runs=runs, dry_run=dry_run))


def du(*, registry: Registry | None = None, progress: Progress | None = None) -> DiskUsage:
    """Return what takes how many bytes in the registry, what eviction has saved, and what it could save."""
    with opened(registry, progress) as context:
        usage = context.registry.usage()
        return DiskUsage(usage, _evictable(usage, find_evictable(context)))


def _evictable(usage: Usage, versions: list[Version]) -> tuple[Eviction, ...]:
    """Return what evicting ``versions`` would free: the files that nothing else needs."""
    own = {version.ref: version.own for version in usage.versions}
    return tuple(Eviction(version.ref, version.digest, own[version.ref]) for version in versions)
