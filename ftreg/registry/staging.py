"""Staging: where a version's files are written before they are published, and how foreign files get there.

A staging folder is on the registry's own file system, so that publishing renames. A lock on its ``lease`` file, which
the system drops when the process ends however it ends, tells ``gc`` whose work is still going on.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import stat
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from ftreg.core.errors import InputError
from ftreg.core.names import check_relative_path
from ftreg.registry.home import Home, try_lock

_FICLONE = 0x40049409  # ioctl of Linux: share the extents of another file, copy on write


@dataclass(frozen=True)
class Staging:
    """A folder to write a version in; removed, with all that was not published, when its ``with`` block ends.

    Attributes:
        folder: The staging folder itself.
    """

    folder: Path

    @property
    def files(self) -> Path:
        """Where the version's files are written."""
        return self.folder / "files"

    @property
    def report(self) -> Path:
        """Where files about the run are written."""
        return self.folder / "report"


@contextmanager
def open_staging(home: Home) -> Iterator[Staging]:
    """Make a staging folder, lease it for as long as this process works in it, and remove it."""
    staging = Staging(home.tmp / f"{os.getpid()}-{os.urandom(6).hex()}")
    with home.lock():  # so that gc never sees the folder without its lease
        staging.folder.mkdir(mode=0o700)
        lease = os.open(staging.folder / "lease", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(lease, fcntl.LOCK_EX)  # waits where a dry run is just asking
    try:
        staging.files.mkdir()
        staging.report.mkdir()
        yield staging
    finally:
        shutil.rmtree(staging.folder, ignore_errors=True)
        os.close(lease)


def is_abandoned(folder: Path) -> bool:
    """Whether the process that made a staging folder is gone; asked by ``gc``, which holds the home's lock."""
    try:
        lease = os.open(folder / "lease", os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return True
    try:
        return try_lock(lease, exclusive=True)
    finally:
        os.close(lease)


def copy_in(folder: Path, target: Path, *, patterns: Sequence[str] = ("*",), within: Path | None = None) -> None:
    """Copy a foreign folder's plain files into a staging folder; cloned, not copied, where the file system can.

    Args:
        folder: What to copy. Folders in it whose name starts with a dot (``.git``, ``.cache``) are left out.
        target: Where to.
        patterns: Shell patterns of the file names to take.
        within: The folder that links may point into; ``folder`` by default. Links to files become files.

    Raises:
        InputError: A link points elsewhere or at a folder, a file is a device, pipe or socket, or a name is not safe.
    """
    limit = (within or folder).resolve()
    for root, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in folders:
            if Path(root, name).is_symlink():
                raise InputError("is a link to a folder", where=str(Path(root, name)), hint="Put the files there.")
        for name in sorted(names):
            if any(fnmatch(name, pattern) for pattern in patterns):
                path = Path(root, name)
                relative = check_relative_path(path.relative_to(folder).as_posix())
                (target / relative).parent.mkdir(parents=True, exist_ok=True)
                _copy_file(path, target / relative, limit)


def _copy_file(path: Path, target: Path, limit: Path) -> None:
    """Copy one plain file, or what a link inside ``limit`` points at."""
    real = path
    if path.is_symlink():
        try:
            real = path.resolve(strict=True)
        except (OSError, RuntimeError):
            raise InputError("is a broken link", where=str(path), hint="Remove it, or mend it.") from None
        if not real.is_relative_to(limit):
            raise InputError(f"links to {real}, outside of {limit}", where=str(path), hint="Put the file itself there.")
    try:
        # Opened once, without following links or waiting for a pipe's writer, and then asked what it is.
        source = os.open(real, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO):
            raise _not_plain(path) from None
        raise
    with os.fdopen(source, "rb") as reading:
        if not stat.S_ISREG(os.fstat(source).st_mode):
            raise _not_plain(path)
        with target.open("wb") as writing:
            if not clone(source, writing.fileno()):
                shutil.copyfileobj(reading, writing, 1 << 20)


def _not_plain(path: Path) -> InputError:
    return InputError("is no plain file", where=str(path), hint="Devices, pipes and sockets cannot be imported.")


def clone(source: int, target: int) -> bool:
    """Let the open file ``target`` share the bytes of ``source``, copy on write; False where that cannot be done."""
    if sys.platform != "linux":
        return False
    try:
        fcntl.ioctl(target, _FICLONE, source)
    except OSError:
        return False
    return True
