"""Packaged versions: how versions are stored outside of the registry, and how they are opened and checked there.

A packaged version is a folder with ``manifest.json``, whose BLAKE3 is the version's digest, and ``files/``, which holds
the files that the manifest lists.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

from blake3 import blake3

from ftreg.core.errors import CorruptRegistry
from ftreg.core.manifest import Manifest
from ftreg.core.types import ADAPTER, Source

MANIFEST, FILES = "manifest.json", "files"
MODELS = "models"
"""Folder beside a deployment that holds its versions, by digest, if it is served without a Bento."""

_DAMAGED = "Its files are damaged or were changed. Verify the registry, then deploy again."


def needed(source: Source) -> Iterator[Source]:
    """Yield what must be packaged to serve ``source``: the version itself and, for an adapter, its base."""
    yield source
    if source.kind == ADAPTER:
        yield from needed(source.parent("base"))


def link(source: Source, folder: Path) -> None:
    """Store ``source`` in the empty ``folder`` as a packaged version, with a link to its files instead of copies."""
    (folder / MANIFEST).write_bytes(source.manifest.to_bytes())
    (folder / FILES).symlink_to(source.path.absolute(), target_is_directory=True)


def opener(locate: Callable[[str], Path], refs: dict[str, str]) -> Callable[[str], Source]:
    """Return a function that opens packaged versions by digest; it hashes each version once.

    Args:
        locate: Returns the folder of a digest.
        refs: References of versions by digest, for messages; other versions are called by their digest.
    """
    opened: dict[str, Source] = {}

    def open_source(digest: str) -> Source:
        if digest not in opened:
            folder = locate(digest)
            manifest = check(folder, digest)
            ref = refs.get(digest, digest[:15])
            opened[digest] = Source(ref, digest, folder / FILES, manifest, open_source)
        return opened[digest]

    return open_source


def check(folder: Path, digest: str) -> Manifest:
    """Read the manifest of the version packaged in ``folder``, and hash its files.

    Raises:
        CorruptRegistry: It is not the version of that digest: a file is missing, was changed, or was added.
    """
    try:
        data = (folder / MANIFEST).read_bytes()
    except OSError as error:
        raise _unreadable(error, folder) from error
    if blake3(data).hexdigest() != digest.removeprefix("b3:"):
        raise CorruptRegistry("is not the manifest of its digest", where=str(folder / MANIFEST), hint=_DAMAGED)
    manifest = Manifest.from_bytes(data)
    check_files(folder / FILES, manifest)
    return manifest


def check_files(folder: Path, manifest: Manifest) -> None:
    """Hash the files in ``folder`` and compare them with the manifest.

    Raises:
        CorruptRegistry: A file is missing, was changed, or was added, which libraries might load.
    """
    try:
        for entry in manifest.files:
            path = folder / entry.path
            if path.stat().st_size != entry.size or _hash(path) != entry.blake3:
                raise CorruptRegistry("is not what its digest says", where=str(path), hint=_DAMAGED)
    except OSError as error:
        raise _unreadable(error, folder) from error
    known = {entry.path for entry in manifest.files}
    for path in sorted(Path(parent, name) for parent, _, names in os.walk(folder) for name in names):
        if path.relative_to(folder).as_posix() not in known:
            raise CorruptRegistry("does not belong to the version", where=str(path), hint=_DAMAGED)


def _unreadable(error: OSError, folder: Path) -> CorruptRegistry:
    reason = error.strerror or str(error)
    where = str(error.filename or folder)
    return CorruptRegistry(f"a packaged file cannot be read: {reason}", where=where, hint=_DAMAGED)


def _hash(path: Path) -> str:
    return blake3(max_threads=blake3.AUTO).update_mmap(path).hexdigest()
