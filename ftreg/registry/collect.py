"""Garbage collection: frees what no version reaches.

Kept are the manifests of all versions and of everything they were made from, the files that those list, and the files
of their evidence. The home's lock is held exclusively: no writer is between storing a blob and referring to it.
"""

from __future__ import annotations

import os
import shutil
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from ftreg.core.errors import CorruptRegistry
from ftreg.registry.blobs import read_manifest, stored_blobs
from ftreg.registry.catalog import Catalog
from ftreg.registry.failpoints import failpoint
from ftreg.registry.home import Home
from ftreg.registry.records import Event, GcReport
from ftreg.registry.staging import is_abandoned
from ftreg.registry.views import evidence_files, evidence_key, view_key


@dataclass
class Plan:
    """What is to go.

    Attributes:
        digests: Manifests that the catalog knows and nothing reaches.
        manifests: Their files, and those of manifests that never got into the catalog.
        blobs: Files with their size.
        views: Folders.
        staging: Folders.
        waiting: Bytes of blobs that nothing refers to and that are too young to go.
    """

    digests: list[str] = field(default_factory=list)
    manifests: list[Path] = field(default_factory=list)
    blobs: list[tuple[Path, int]] = field(default_factory=list)
    views: list[Path] = field(default_factory=list)
    staging: list[Path] = field(default_factory=list)
    waiting: int = 0

    def report(self, *, dry_run: bool) -> GcReport:
        """The plan in figures; taken before it is carried out."""
        staged = sum(_size(folder) for folder in self.staging)
        return GcReport(
            dry_run=dry_run,
            manifests=len(self.manifests),
            blobs=len(self.blobs),
            staging=len(self.staging),
            size=sum(size for _, size in self.blobs) + staged,
            waiting=self.waiting,
        )


def plan_collection(home: Home, catalog: Catalog, *, grace: float) -> Plan:
    """Find what nothing reaches and what was last touched ``grace`` seconds ago or earlier.

    Raises:
        CorruptRegistry: A manifest that must be read to know what it reaches is damaged; nothing may be freed then.
    """
    now = time.time()

    def is_old(path: Path) -> bool:
        # The status changes when a file is stored and when a view is made of it.
        return now - path.lstat().st_ctime >= grace

    plan = Plan()
    roots = {version.digest for version in catalog.versions()}
    known = set(catalog.manifests())
    young = {digest for digest in known if home.manifest(digest).exists() and not is_old(home.manifest(digest))}
    kept = set(catalog.closure(sorted(roots | young), up=True)) & known
    plan.digests = sorted(known - kept)
    plan.manifests = [
        path for path in sorted(home.manifests.iterdir()) if f"b3:{path.stem}" not in kept and is_old(path)
    ]
    hashes, views = _reached(home, catalog, kept)
    for path, status in stored_blobs(home):
        if path.name not in hashes:
            if now - status.st_ctime >= grace:
                plan.blobs.append((path, status.st_size))
            else:
                plan.waiting += status.st_size
    plan.views = [path for path in sorted(home.views.iterdir()) if path.name not in views]
    plan.staging = [path for path in sorted(home.tmp.iterdir()) if is_abandoned(path)]
    return plan


def _reached(home: Home, catalog: Catalog, kept: set[str]) -> tuple[set[str], set[str]]:
    """The hashes of all files, and the names of all views, that belong to kept manifests."""
    hashes: set[str] = set()
    views: set[str] = set()
    for digest in kept:
        try:
            manifest = read_manifest(home, digest)
        except CorruptRegistry as error:
            raise CorruptRegistry(
                f"nothing can be freed: {error.message}", where=error.where, hint="Run: ftreg verify"
            ) from error
        hashes.update(entry.blake3 for entry in manifest.files)
        views.add(view_key(digest))
    for event in catalog.evidence():
        if event.digest in kept:
            files = evidence_files(event)
            hashes.update(entry.blake3 for entry in files)
            views.add(evidence_key(files))
    return hashes, views


def collect(catalog: Catalog, plan: Plan) -> None:
    """Carry out a plan: the catalog forgets, then manifests go, then blobs; killed between, it can be run again."""
    if plan.digests:
        with catalog.transaction():
            for digest in plan.digests:
                catalog.append(Event.now("collected", digest))
    failpoint("collect-recorded")
    for path in plan.manifests:
        path.unlink()
    failpoint("collect-manifests")
    for path, _ in plan.blobs:
        path.unlink()
        failpoint("collect-blob")
    for folder in (*plan.views, *plan.staging):
        _remove(folder)


# A process that is just leaving its staging folder removes it too, so what is here now may be gone in a moment.


def _size(folder: Path) -> int:
    """Bytes of the files in a staging folder."""
    size = 0
    for root, _, names in os.walk(folder):
        for name in names:
            with suppress(FileNotFoundError):
                size += Path(root, name).lstat().st_size
    return size


def _remove(path: Path) -> None:
    """Remove a folder, or whatever else stands there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
