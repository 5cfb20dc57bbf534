"""Garbage collection: frees what no version reaches.

The manifests of all versions and of all their ancestors are kept, with the files of their evidence and the files that
they list, unless these were given up. The home's lock is held exclusively, so that no writer is between storing a blob
and referring to it.
"""

from __future__ import annotations

import os
import shutil
import time
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from ftreg.core.errors import CorruptRegistry
from ftreg.registry.blobs import stored_blobs
from ftreg.registry.catalog import Catalog
from ftreg.registry.eviction import referenced
from ftreg.registry.evidence import evidence_files, evidence_key
from ftreg.registry.failpoints import failpoint
from ftreg.registry.home import Home
from ftreg.registry.records import Event, GcReport, RunFolder
from ftreg.registry.runs import find_runs, free_run
from ftreg.registry.staging import is_abandoned
from ftreg.registry.views import view_key


@dataclass
class Garbage:
    """What can be freed.

    Attributes:
        digests: Manifests that the catalog knows and no version reaches.
        manifests: Their files, and those of manifests that never got into the catalog.
        blobs: Files that no kept manifest or evidence refers to, with their sizes in bytes.
        views: Folders of versions and evidence that are not kept.
        staging: Folders of processes that have ended.
        runs: Folders of trainings that need not, or will not, be resumed.
        kept_runs: Folders of other trainings.
        waiting: Bytes of blobs that nothing refers to and that are younger than the grace period.
    """

    digests: list[str] = field(default_factory=list)
    manifests: list[Path] = field(default_factory=list)
    blobs: list[tuple[Path, int]] = field(default_factory=list)
    views: list[Path] = field(default_factory=list)
    staging: list[Path] = field(default_factory=list)
    runs: list[RunFolder] = field(default_factory=list)
    kept_runs: list[RunFolder] = field(default_factory=list)
    waiting: int = 0

    def report(self, *, dry_run: bool) -> GcReport:
        """Summarize the garbage; call this before ``collect``, while the files can still be measured."""
        unfinished = sum(_size(folder) for folder in self.staging) + sum(run.size for run in self.runs)
        return GcReport(
            dry_run=dry_run,
            manifests=len(self.manifests),
            blobs=len(self.blobs),
            staging=len(self.staging),
            runs=tuple(self.runs),
            size=sum(size for _, size in self.blobs) + unfinished,
            waiting=self.waiting,
            kept_runs=tuple(self.kept_runs),
        )


def find_garbage(home: Home, catalog: Catalog, *, grace: float, runs: bool = False) -> Garbage:
    """Find what no version reaches and nobody has touched for ``grace`` seconds.

    Args:
        home: The registry's folder.
        catalog: Its catalog.
        grace: Seconds for which everything new is kept.
        runs: Whether checkpoints of unfinished trainings are garbage too.

    Raises:
        CorruptRegistry: A manifest that must be kept cannot be read, so it is not known which files it needs.
    """
    now = time.time()

    def is_old(path: Path) -> bool:
        # A file's ctime changes when it is stored and when a view links to it.
        return now - path.lstat().st_ctime >= grace

    garbage = Garbage()
    roots = {version.digest for version in catalog.versions()}
    known = set(catalog.manifests())
    young = {digest for digest in known if home.manifest(digest).exists() and not is_old(home.manifest(digest))}
    kept = set(catalog.closure(sorted(roots | young), up=True)) & known
    garbage.digests = sorted(known - kept)
    garbage.manifests = [
        path for path in sorted(home.manifests.iterdir()) if f"b3:{path.stem}" not in kept and is_old(path)
    ]
    hashes, views = _reached(home, catalog, kept)
    for path, status in stored_blobs(home):
        if path.name not in hashes:
            if now - status.st_ctime >= grace:
                garbage.blobs.append((path, status.st_size))
            else:
                garbage.waiting += status.st_size
    garbage.views = [path for path in sorted(home.views.iterdir()) if path.name not in views]
    garbage.staging = [path for path in sorted(home.tmp.iterdir()) if is_abandoned(path)]
    for run in find_runs(home, catalog):
        is_old_run = now - datetime.fromisoformat(run.written).timestamp() >= grace
        given_up = runs and run.state == "unfinished" and is_old_run
        is_garbage = given_up or run.state in ("published", "empty")
        (garbage.runs if is_garbage else garbage.kept_runs).append(run)
    return garbage


def _reached(home: Home, catalog: Catalog, kept: set[str]) -> tuple[set[str], set[str]]:
    """Return the hashes of all files, and the names of all views, that belong to kept manifests."""
    try:
        hashes = referenced(home, catalog, kept)
    except CorruptRegistry as error:
        raise CorruptRegistry(
            f"nothing can be freed: {error.message}", where=error.where, hint="Run `registry.verify()`"
        ) from error
    views = {view_key(digest) for digest in kept - catalog.evicted().keys()}
    views |= {evidence_key(evidence_files(event)) for event in catalog.evidence() if event.digest in kept}
    return hashes, views


def collect(catalog: Catalog, garbage: Garbage) -> None:
    """Free garbage: first the catalog's rows, then manifests, then blobs, so that a killed run can be repeated."""
    if garbage.digests:
        with catalog.transaction():
            for digest in garbage.digests:
                catalog.append(Event.now("collected", digest))
    failpoint("collect-recorded")
    for path in garbage.manifests:
        path.unlink()
    failpoint("collect-manifests")
    for path, _ in garbage.blobs:
        path.unlink()
        failpoint("collect-blob")
    for folder in (*garbage.views, *garbage.staging):
        _remove(folder)
    for run in garbage.runs:
        free_run(run.folder)


def _size(folder: Path) -> int:
    """Return the bytes of a staging folder's files; its owner may be removing it at the same time."""
    size = 0
    for root, _, names in os.walk(folder):
        for name in names:
            with suppress(FileNotFoundError):
                size += Path(root, name).lstat().st_size
    return size


def _remove(path: Path) -> None:
    """Remove a folder, a file or a link; it may be gone already."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
