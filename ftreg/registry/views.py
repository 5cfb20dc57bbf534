"""Views: folders that show a version's files under their own names, for transformers, safetensors and ONNX Runtime.

A file of a view is a copy-on-write clone of its blob if the file system supports clones, else a hard link, else a copy.
It is never a symbolic link: a tool that resolves the link and replaces its target would replace the blob. Through a
hard link only a write in place can change the blob. Such a write has to lift the write protection first, and it breaks
the blob's seal, so the next ``open_view`` or ``verify`` hashes the blob and reports the change. Files that were added
to a view or replaced in it are put right when it is next opened.
"""

from __future__ import annotations

import errno
import itertools
import os
import shutil
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from ftreg.core.errors import FtregError
from ftreg.core.manifest import FileEntry
from ftreg.registry.blobs import check_blob, is_sealed, plain_files, seal
from ftreg.registry.home import Home
from ftreg.registry.staging import clone, open_staging

_NO_HARD_LINK = (errno.EMLINK, errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS)


def view_key(digest: str) -> str:
    """Return the name of the view of a version's files."""
    return digest.removeprefix("b3:")


def open_view(home: Home, key: str, entries: Sequence[FileEntry]) -> Path:
    """Return the folder ``views/<key>`` with the files of ``entries``; create it, or repair it, if necessary.

    Raises:
        CorruptRegistry: A stored file is missing or was changed.
    """
    folder = home.views / key
    with home.lock():
        for entry in entries:
            check_blob(home, entry)
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
    """Return True if a view holds exactly the files of ``entries``, judged by their sizes and seals."""
    try:
        found = {name: path.stat() for name, path in plain_files(folder)}
    except (FtregError, OSError):
        return False
    return found.keys() == {entry.path for entry in entries} and all(
        found[entry.path].st_size == entry.size and is_sealed(found[entry.path]) for entry in entries
    )


def _place(blob: Path, target: Path) -> None:
    """Make a blob's content appear at ``target``: as a clone, else as a hard link, else as a copy."""
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
    """Rename a finished view to ``folder``.

    What is there already is moved to ``trash``, unless another process has just put the same view there.
    """
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
