"""Usage: what takes how many bytes in a registry."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Set
from contextlib import suppress
from pathlib import Path

from ftreg.core.types import State
from ftreg.registry.blobs import read_manifest, stored_blobs
from ftreg.registry.catalog import Catalog
from ftreg.registry.eviction import kept_files
from ftreg.registry.evidence import evidence_files
from ftreg.registry.finder import Finder
from ftreg.registry.home import Home
from ftreg.registry.records import Usage, VersionUsage


def measure_usage(home: Home, catalog: Catalog, finder: Finder) -> Usage:
    """Measure the registry; the caller holds the home's lock.

    Raises:
        CorruptRegistry: A manifest is missing or damaged.
    """
    evicted = catalog.evicted()
    manifests = {digest: read_manifest(home, digest) for digest in catalog.manifests()}
    of_evidence = {entry.blake3 for event in catalog.evidence() for entry in evidence_files(event)}
    kept = {
        digest: {entry.blake3 for entry in kept_files(digest, manifest, evicted)}
        for digest, manifest in manifests.items()
    }
    users = Counter(blake3 for hashes in kept.values() for blake3 in hashes) + Counter(of_evidence)
    of_versions = {entry.blake3: entry.size for manifest in manifests.values() for entry in manifest.files}
    sizes: dict[str, int] = {}
    inodes: set[int] = set()
    for path, status in stored_blobs(home):
        sizes[path.name] = status.st_size
        inodes.add(status.st_ino)

    versions = []
    for digest, manifest in manifests.items():
        files = {entry.blake3: entry.size for entry in manifest.files}
        here = {blake3: size for blake3, size in files.items() if blake3 in sizes}
        own = sum(size for blake3, size in here.items() if blake3 in kept[digest] and users[blake3] == 1)
        shared = sum(size for blake3, size in here.items() if users[blake3] > (blake3 in kept[digest]))
        state: State = "rebuildable" if digest in evicted else "here"
        saved = sum(size for blake3, size in files.items() if blake3 not in sizes) if digest in evicted else 0
        versions.append(VersionUsage(finder.by_digest(digest).ref, state, manifest.size, own, shared, saved))
    given_up = {entry.blake3 for digest in evicted for entry in manifests[digest].files}
    return Usage(
        versions=tuple(sorted(versions, key=lambda version: (-version.own, -version.size, version.ref))),
        files=sum(size for blake3, size in sizes.items() if blake3 in of_versions and users[blake3]),
        evidence=sum(size for blake3, size in sizes.items() if blake3 in of_evidence and blake3 not in of_versions),
        unreferenced=sum(size for blake3, size in sizes.items() if not users[blake3]),
        views=_size([home.views], without=inodes),
        runs=_size([home.runs]),
        staging=_size([home.tmp]),
        records=_size([home.manifests, home.database, Path(f"{home.database}-wal"), home.events]),
        saved=sum(of_versions[blake3] for blake3 in given_up if blake3 not in sizes),
    )


def _size(paths: Iterable[Path], *, without: Set[int] = frozenset()) -> int:
    """Return the bytes of files, and of those in folders, each inode once; the inodes ``without`` are left out."""
    found: dict[int, int] = {}
    for path in paths:
        inside = (Path(root, name) for root, _, names in os.walk(path) for name in names)
        for file in inside if path.is_dir() else [path]:
            with suppress(FileNotFoundError):  # others may be removing it
                status = file.lstat()
                found[status.st_ino] = status.st_size
    return sum(size for inode, size in found.items() if inode not in without)
