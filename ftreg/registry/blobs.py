"""Blobs: files stored once, under their BLAKE3 hash, and sealed so that a change is noticed.

A sealed file is read-only and has one fixed modification time. Writing into a blob, through a view or directly, changes
that time, so a look at it shows that the blob must be hashed again. A write that restores the time is found only by a
full ``verify``, which hashes everything.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from blake3 import blake3

from ftreg.core.errors import CorruptRegistry, FtregError, InputError
from ftreg.core.manifest import FileEntry, Manifest
from ftreg.core.names import check_relative_path
from ftreg.registry.failpoints import failpoint
from ftreg.registry.home import Home, check_hash, sync_folder

SEAL_TIME = 315_619_200
"""The modification time of sealed files, 1980-01-02T00:00:00Z, in seconds; zip archives cannot hold earlier times."""


@dataclass(frozen=True)
class Staged:
    """A file in a staging folder, hashed and durable, with the entry that the manifest will have for it."""

    path: Path
    entry: FileEntry


def hash_file(path: Path, *, durable: bool = False) -> str:
    """Return the BLAKE3 of a file in hex, reading it once; with ``durable``, also sync it to the disk."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, blake3).hexdigest()  # type: ignore[arg-type]
        if durable:
            os.fsync(file.fileno())
    return digest


def digest_of(data: bytes) -> str:
    """Return the digest ``b3:…`` of a manifest's bytes."""
    return f"b3:{blake3(data).hexdigest()}"


def plain_files(folder: Path) -> list[tuple[str, Path]]:
    """List the files under ``folder`` by relative POSIX path, sorted; raise ``FtregError`` for links and devices."""
    found: list[tuple[str, Path]] = []
    pending = [folder]
    while pending:
        with os.scandir(pending.pop()) as entries:
            for entry in entries:
                path = Path(entry.path)
                if entry.is_dir(follow_symlinks=False):
                    pending.append(path)
                elif entry.is_file(follow_symlinks=False):
                    found.append((path.relative_to(folder).as_posix(), path))
                else:
                    raise FtregError("not a plain file", where=str(path), hint="A version holds plain files only.")
    return sorted(found)


def measure(folder: Path) -> list[Staged]:
    """Hash every file of a staging folder, each once, and make its bytes durable.

    Raises:
        FtregError: A file is not a plain file, or its name is not safe on every file system.
    """
    staged = [
        Staged(path, FileEntry(name, path.stat().st_size, hash_file(path, durable=True)))
        for name, path in plain_files(folder)
    ]
    check_entries([item.entry for item in staged])
    failpoint("staged")
    return staged


def check_entries(entries: Iterable[FileEntry]) -> None:
    """Raise if file entries cannot become paths: a path is unsafe, or two differ only in upper and lower case."""
    seen: dict[str, str] = {}
    for entry in entries:
        check_relative_path(entry.path)
        check_hash(entry.blake3)
        other = seen.setdefault(entry.path.casefold(), entry.path)
        if other is not entry.path:
            raise InputError(
                f"{other!r} and {entry.path!r} differ only in upper and lower case", hint="Rename one of them."
            )


def store(home: Home, staged: Sequence[Staged]) -> None:
    """Move staged files into ``blobs/``, durably; a blob that exists already is kept.

    The caller holds the home's lock until something refers to the blobs, so that ``gc`` cannot free them.
    """
    for item in staged:
        target = home.blob(item.entry.blake3)
        target.parent.mkdir(exist_ok=True)
        if _size(target) != item.entry.size:
            _move(item.path, target)
    # Also for blobs that existed: the process that stored them may have been killed before it synced the folder.
    for folder in {home.blob(item.entry.blake3).parent for item in staged}:
        sync_folder(folder)
    sync_folder(home.blobs)
    failpoint("blobs-stored")


def _move(path: Path, target: Path) -> None:
    """Seal a staged file and rename it to ``target``."""
    if path.stat().st_nlink > 1:
        # The file can be changed through its other hard links, so the blob gets a copy.
        own = path.with_name(f"{path.name}.own")
        copy_durably(path, own)
        own.replace(path)
    seal(path)
    failpoint("blob-sealed")
    path.rename(target)
    failpoint("blob-stored")


def copy_durably(path: Path, target: Path) -> None:
    """Copy a file and sync the copy to the disk."""
    shutil.copyfile(path, target)
    with target.open("rb") as file:
        os.fsync(file.fileno())


def store_manifest(home: Home, data: bytes, scratch: Path) -> str:
    """Write a manifest into ``manifests/``, durably, through a draft in ``scratch``; return its digest."""
    digest = digest_of(data)
    draft = scratch / "manifest.json"
    with draft.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    seal(draft)
    failpoint("manifest-written")
    draft.rename(home.manifest(digest))
    sync_folder(home.manifests)
    failpoint("manifest-stored")
    return digest


def read_manifest(home: Home, digest: str) -> Manifest:
    """Read a manifest; raise ``CorruptRegistry`` if it is missing, was changed or names unsafe paths."""
    path = home.manifest(digest)
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise CorruptRegistry("a manifest is missing", where=str(path), hint="Run `registry.verify()`") from None
    if digest_of(data) != digest:
        raise CorruptRegistry("a manifest was changed", where=str(path), hint="Run `registry.verify()`")
    try:
        manifest = Manifest.from_bytes(data)
        check_entries(manifest.files)
    except InputError as error:
        raise CorruptRegistry(f"a manifest lists an unsafe file: {error.message}", where=str(path)) from error
    return manifest


def examine(home: Home, entry: FileEntry, *, full: bool = False) -> str | None:
    """Say what is wrong with a stored file; return None if nothing is.

    The size and the seal are checked; the file is hashed if the seal is broken or ``full`` is set. A file with a broken
    seal and the right content is sealed again.
    """
    path = home.blob(entry.blake3)
    try:
        status = path.lstat()
    except FileNotFoundError:
        return "is missing"
    if not stat.S_ISREG(status.st_mode):
        return "is not a plain file"
    if status.st_size != entry.size:
        return f"has {status.st_size} bytes instead of {entry.size}"
    if is_sealed(status) and not full:
        return None
    try:
        found = hash_file(path)
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    if found != entry.blake3:
        return "does not have the content that its hash stands for"
    if not is_sealed(status):
        with suppress(PermissionError):
            seal(path)
    return None


def read_blob(home: Home, entry: FileEntry) -> bytes:
    """Return the content of a stored file; raise ``CorruptRegistry`` if it is missing or was changed."""
    check_blob(home, entry)
    return home.blob(entry.blake3).read_bytes()


def check_blob(home: Home, entry: FileEntry, *, full: bool = False) -> None:
    """Raise ``CorruptRegistry`` if a stored file is missing or was changed; see ``examine``."""
    problem = examine(home, entry, full=full)
    if problem:
        where = str(home.blob(entry.blake3))
        raise CorruptRegistry(f"{entry.path} {problem}", where=where, hint="Run `registry.verify()`")


def seal(path: Path) -> None:
    """Make a file read-only and give it the modification time of sealed files."""
    path.chmod(0o444)
    os.utime(path, (SEAL_TIME, SEAL_TIME))


def is_sealed(status: os.stat_result) -> bool:
    """Return True if the mode and the modification time of a file are those of a sealed file."""
    return status.st_mtime_ns == SEAL_TIME * 1_000_000_000 and not status.st_mode & 0o222


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return None


def stored_blobs(home: Home) -> Iterator[tuple[Path, os.stat_result]]:
    """Yield every file under ``blobs/`` with its status."""
    for folder in sorted(home.blobs.iterdir()):
        for path in sorted(folder.iterdir()):
            yield path, path.lstat()
