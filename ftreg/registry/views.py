"""Views: a version's files in a folder of their own, as transformers, safetensors and ONNX Runtime want them.

A view's file is a copy-on-write clone of its blob where the file system has them, else a hard link to it, else a copy.
A symbolic link is never used: a tool that resolves one and replaces what it finds there would put its own bytes in the
blob's place. Through a hard link, only writing in place reaches the blob. That takes a writer who lifts the write
protection, and it breaks the blob's seal, so that the next ``open_view`` or ``verify`` hashes the blob and reports it.
What is done to the view itself, such as files added or replaced, is undone when it is next opened.
"""

from __future__ import annotations

import errno
import itertools
import os
import shutil
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from blake3 import blake3

from ftreg.core.errors import CorruptRegistry, FtregError
from ftreg.core.manifest import FileEntry, canonical_json
from ftreg.registry.blobs import examine, is_sealed, plain_files, seal
from ftreg.registry.home import Home
from ftreg.registry.records import Event
from ftreg.registry.staging import clone, open_staging

_NO_HARD_LINK = (errno.EMLINK, errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS)


def view_key(digest: str) -> str:
    """The name of the view of a version's files."""
    return digest.removeprefix("b3:")


def evidence_files(event: Event) -> list[FileEntry]:
    """The files that an evidence event attached."""
    return [FileEntry(**entry) for entry in event.detail["files"]]


def evidence_key(files: Sequence[FileEntry]) -> str:
    """The name of the view of an evidence record's files: the same files are the same view."""
    listing = canonical_json([[entry.path, entry.blake3] for entry in files])
    return f"evidence-{blake3(listing).hexdigest()[:32]}"


def open_view(home: Home, key: str, entries: Sequence[FileEntry]) -> Path:
    """The folder ``views/<key>`` with the files of ``entries``; made, or made again, where it is not whole.

    Raises:
        CorruptRegistry: A file's bytes are missing, or were changed.
    """
    folder = home.views / key
    with home.lock():
        for entry in entries:
            problem = examine(home, entry)
            if problem:
                raise CorruptRegistry(
                    f"{entry.path} {problem}", where=str(home.blob(entry.blake3)), hint="Run: ftreg verify"
                )
        if is_whole(folder, entries):
            return folder
        with open_staging(home) as staging:
            for entry in entries:
                target = staging.files / entry.path
                target.parent.mkdir(parents=True, exist_ok=True)
                _place(home.blob(entry.blake3), target)
            _put(staging.files, folder, entries, staging.folder)
    return folder


def is_whole(folder: Path, entries: Sequence[FileEntry]) -> bool:
    """Whether a view holds exactly the files of ``entries``, unchanged as far as sizes and seals tell."""
    try:
        found = {name: path.stat() for name, path in plain_files(folder)}
    except (FtregError, OSError):
        return False
    return found.keys() == {entry.path for entry in entries} and all(
        found[entry.path].st_size == entry.size and is_sealed(found[entry.path]) for entry in entries
    )


def _place(blob: Path, target: Path) -> None:
    """Put a blob's bytes at ``target``: cloned, else linked, else copied."""
    with blob.open("rb") as reading, target.open("wb") as writing:
        cloned = clone(reading.fileno(), writing.fileno())
    if cloned:
        seal(target)
        return
    target.unlink()
    try:
        os.link(blob, target)
    except OSError as error:
        if error.errno not in _NO_HARD_LINK:
            raise
        shutil.copyfile(blob, target)
        seal(target)


def _put(made: Path, folder: Path, entries: Sequence[FileEntry], trash: Path) -> None:
    """Rename a finished view to ``folder``; what stands there goes to ``trash``, unless another process was faster."""
    for attempt in itertools.count():
        try:
            made.rename(folder)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                raise
        else:
            return
        if is_whole(folder, entries):
            return
        with suppress(FileNotFoundError):
            folder.rename(trash / f"old-{attempt}")
