"""What the operating system and SQLite raise, said in ftreg's own errors."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ftreg.core.database import DatabaseFault, database_fault
from ftreg.core.errors import CorruptRegistry, FtregError, RegistryBusy
from ftreg.core.faults import disk_full, fault_of, read_only

_REBUILD = "Rebuild it from the manifests and the event log with `Registry.rebuild()`"


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
        fault = fault_of(error, home)
        if fault is not None:
            raise fault from error
        raise


def _from_sqlite(error: sqlite3.Error, home: Path) -> Exception:
    """The ftreg error that says what ``error`` means, or ``error`` itself where it is a defect of ours."""
    where = str(home / "registry.db")
    match database_fault(error):
        case None:
            return error
        case DatabaseFault.DISK_FULL:
            return disk_full(where)
        case DatabaseFault.BUSY:
            return RegistryBusy("the catalog is locked by another process", where=where, hint="Try again.")
        case DatabaseFault.DAMAGED:
            return CorruptRegistry(f"the catalog is damaged: {error}", where=where, hint=_REBUILD)
        case DatabaseFault.NO_ACCESS:
            return read_only(where)
        case DatabaseFault.IO_ERROR:
            if os.statvfs(home).f_bavail == 0:
                return disk_full(where)
            return FtregError(f"the catalog cannot be read or written: {error}", where=where, hint="Check the disk.")


def catalog_missing(path: Path) -> CorruptRegistry:
    """The error for a home whose catalog is gone."""
    return CorruptRegistry("the catalog is missing", where=str(path), hint=_REBUILD)
