"""Eviction: gives up the files of a version that can be made again, and takes them back.

The manifest, the lineage and the evidence stay. The event ``evicted`` is committed before a file is removed, and the
files are stored before the event ``restored`` is: whenever the process is killed, a version whose files are missing is
on record as rebuildable. Files that other versions or evidence refer to stay.
"""

from __future__ import annotations

import shutil
from collections.abc import Collection, Iterable, Mapping, Sequence

from ftreg.core.errors import FtregError, InputError
from ftreg.core.manifest import FileEntry, Manifest
from ftreg.registry.blobs import Staged, read_manifest
from ftreg.registry.catalog import Catalog
from ftreg.registry.evidence import evidence_files
from ftreg.registry.failpoints import failpoint
from ftreg.registry.home import Home
from ftreg.registry.views import view_key

Evicted = Mapping[str, Collection[str]]
"""The digests whose files were given up, each with the paths of those that were kept."""


def kept_files(digest: str, manifest: Manifest, evicted: Evicted) -> tuple[FileEntry, ...]:
    """Return the files of a version that the registry keeps: all, unless it is rebuildable."""
    if digest not in evicted:
        return manifest.files
    return tuple(entry for entry in manifest.files if entry.path in evicted[digest])


def check_evictable(manifest: Manifest, ref: str) -> None:
    """Raise ``InputError`` if nothing says how to make a version again."""
    if manifest.producer.type == "import":
        hint = "Delete it instead, if nothing needs it."
        raise InputError(f"{ref} was imported, so its files cannot be made again", hint=hint)


def referenced(home: Home, catalog: Catalog, digests: Iterable[str]) -> set[str]:
    """Return the hashes of all files that the registry keeps for ``digests``, and for their evidence."""
    evicted, wanted = catalog.evicted(), set(digests)
    hashes = {entry.blake3 for digest in wanted for entry in kept_files(digest, read_manifest(home, digest), evicted)}
    for event in catalog.evidence():
        if event.digest in wanted:
            hashes.update(entry.blake3 for entry in evidence_files(event))
    return hashes


def free_files(home: Home, catalog: Catalog, digest: str) -> int:
    """Remove the files of a rebuildable version that nothing refers to, and its view; return the bytes freed.

    The caller holds the home's lock exclusively, and the event is committed.
    """
    needed = referenced(home, catalog, catalog.manifests())
    freed = 0
    for entry in {entry.blake3: entry for entry in read_manifest(home, digest).files}.values():
        blob = home.blob(entry.blake3)
        if entry.blake3 not in needed and blob.exists():
            blob.unlink()
            freed += entry.size
            failpoint("evict-blob")
    failpoint("evict-blobs")
    shutil.rmtree(home.views / view_key(digest), ignore_errors=True)
    return freed


def choose_staged(ref: str, manifest: Manifest, files: Sequence[Staged]) -> list[Staged]:
    """Return those of ``files`` that are the files of a version; raise ``FtregError`` unless all of them are there."""
    found = {item.entry: item for item in files}
    missing = [entry.path for entry in manifest.files if entry not in found]
    if missing:
        raise FtregError(f"these are not the files of {ref}: {', '.join(missing)} differ or are missing")
    return [found[entry] for entry in manifest.files]
