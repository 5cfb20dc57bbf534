"""Staging: folders in which versions are written before they are published, and safe copies into them.

A staging folder is on the registry's own file system, so that publishing renames files and copies none. Its owner
holds a lock on its ``lease`` file. The operating system drops the lock when the process ends, however it ends, and
``gc`` then removes the folder.
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
    """A folder to write a version in; it is removed, with all that was not published, when its ``with`` block ends.

    Attributes:
        folder: The staging folder itself.
    """

    folder: Path

    @property
    def files(self) -> Path:
        """The folder for the version's files."""
        return self.folder / "files"

    @property
    def report(self) -> Path:
        """The folder for files about the run."""
        return self.folder / "report"


@contextmanager
def open_staging(home: Home) -> Iterator[Staging]:
    """Create a staging folder, hold its lease while the block runs, and remove it."""
    staging = Staging(home.tmp / f"{os.getpid()}-{os.urandom(6).hex()}")
    with home.lock():  # so that gc never sees the folder without its lease
        staging.folder.mkdir(mode=0o700)
        lease = os.open(staging.folder / "lease", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(lease, fcntl.LOCK_EX)  # waits while a dry run of gc tests the lock
    try:
        staging.files.mkdir()
        staging.report.mkdir()
        yield staging
    finally:
        shutil.rmtree(staging.folder, ignore_errors=True)
        os.close(lease)


def is_abandoned(folder: Path) -> bool:
    """Return True if the process that created a staging folder has ended; the caller holds the home's lock."""
    try:
        lease = os.open(folder / "lease", os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return True
    try:
        return try_lock(lease, exclusive=True)
    finally:
        os.close(lease)


def copy_in(folder: Path, target: Path, *, patterns: Sequence[str] = ("*",), within: Path | None = None) -> None:
    """Copy the plain files of any folder into a staging folder, as clones if the file system supports them.

    Args:
        folder: The folder to copy. Folders in it whose name starts with a dot (``.git``, ``.cache``) are left out.
        target: The folder to copy to.
        patterns: Shell patterns of the names of the files to copy.
        within: The folder that links may point into; ``folder`` by default. Links to files become files.

    Raises:
        InputError: A link points elsewhere or to a folder, a file is a device, pipe or socket, or a name is not safe.
    """
    limit = (within or folder).resolve()
    for root, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in folders:
            if Path(root, name).is_symlink():
                raise InputError(
                    "this is a link to a folder", where=str(Path(root, name)), hint="Copy the folder there."
                )
        for name in sorted(names):
            if any(fnmatch(name, pattern) for pattern in patterns):
                path = Path(root, name)
                relative = check_relative_path(path.relative_to(folder).as_posix())
                (target / relative).parent.mkdir(parents=True, exist_ok=True)
                _copy_file(path, target / relative, limit)


def _copy_file(path: Path, target: Path, limit: Path) -> None:
    """Copy one plain file, or the target of a link if it is inside ``limit``."""
    real = path
    if path.is_symlink():
        try:
            real = path.resolve(strict=True)
        except (OSError, RuntimeError):
            raise InputError("this link is broken", where=str(path), hint="Remove or repair it.") from None
        if not real.is_relative_to(limit):
            raise InputError(
                f"this link leads to {real}, outside {limit}", where=str(path), hint="Copy the file there."
            )
    try:
        # Open first and check the type afterwards, so that nobody can swap the file in between. O_NOFOLLOW refuses
        # links, and O_NONBLOCK does not wait for the writer of a pipe.
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
    return InputError("not a plain file", where=str(path), hint="Devices, pipes and sockets cannot be imported.")


def clone(source: int, target: int) -> bool:
    """Make the open file ``target`` a copy-on-write clone of ``source``; return False if this is not supported."""
    if sys.platform != "linux":
        return False
    try:
        fcntl.ioctl(target, _FICLONE, source)
    except OSError:
        return False
    return True
