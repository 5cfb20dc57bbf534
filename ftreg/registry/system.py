"""What the operating system and SQLite raise, said in ftreg's own errors."""

from __future__ import annotations

import errno
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ftreg.core.errors import CorruptRegistry, DiskFull, FtregError, RegistryBusy

_FULL = (errno.ENOSPC, errno.EDQUOT)
_REBUILD = "Rebuild it from the manifests and the event log: ftreg verify --rebuild"


@contextmanager
def system_errors(home: Path) -> Iterator[None]:
    """Turn errors of the system into ones that say what is wrong with the registry at ``home``, and what to do.

    Raises:
        DiskFull: No room is left.
        RegistryBusy: The catalog stays locked.
        CorruptRegistry: The catalog's file is damaged.
        FtregError: The registry cannot be written or read.
    """
    try:
        yield
    except sqlite3.Error as error:
        raise _from_sqlite(error, home) from error
    except OSError as error:
        where = str(error.filename or home)
        if error.errno in _FULL:
            raise _disk_full(where) from error
        if error.errno == errno.EROFS:
            raise _read_only(where) from error
        if error.errno in (errno.EACCES, errno.EPERM):
            raise FtregError(
                "permission denied", where=where, hint="Check who owns it, or choose another registry with --home."
            ) from error
        raise


def _from_sqlite(error: sqlite3.Error, home: Path) -> Exception:
    """The ftreg error that says what ``error`` means, or ``error`` itself where it is a defect of ours."""
    where = str(home / "registry.db")
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code == sqlite3.SQLITE_FULL:
        return _disk_full(where)
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return RegistryBusy("the catalog is locked by another process", where=where, hint="Try again.")
    if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return CorruptRegistry(f"the catalog is damaged: {error}", where=where, hint=_REBUILD)
    if code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM):
        return _read_only(where)
    if code == sqlite3.SQLITE_IOERR:
        free = os.statvfs(home)
        if free.f_bavail == 0:
            return _disk_full(where)
        return FtregError(f"the catalog cannot be read or written: {error}", where=where, hint="Check the disk.")
    return error


def _disk_full(where: str) -> DiskFull:
    return DiskFull(
        "the disk is full; nothing was published",
        where=where,
        hint="Free some space (ftreg gc --dry-run says what the registry can free) and try again.",
    )


def _read_only(where: str) -> FtregError:
    return FtregError(
        "the registry cannot be written here: it is read-only",
        where=where,
        hint="Choose another with --home or FTREG_HOME, or change the permissions.",
    )


def catalog_missing(path: Path) -> CorruptRegistry:
    """The error for a home whose catalog is gone."""
    return CorruptRegistry("the catalog is missing", where=str(path), hint=_REBUILD)
