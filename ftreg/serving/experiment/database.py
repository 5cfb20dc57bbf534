"""The database file of experiments' records: its schema, how it is opened, and its errors."""

from __future__ import annotations

import errno
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ftreg.core.database import DatabaseFault, check_schema_version, connect, database_fault, migrate
from ftreg.core.errors import DiskFull, FtregError, InputError, RegistryBusy, UnknownName

APPLICATION = 0x66747265  # "ftre": distinguishes a record from other programs' SQLite files

MIGRATIONS: tuple[str, ...] = (
    f"""
    PRAGMA application_id = {APPLICATION};

    CREATE TABLE experiments (
        id TEXT PRIMARY KEY,
        name TEXT NOT NULL,
        deployment TEXT NOT NULL,  -- JSON, with the variants' digests
        created REAL NOT NULL,
        opened REAL NOT NULL
    ) STRICT, WITHOUT ROWID;

    CREATE TABLE allocations (
        experiment TEXT NOT NULL REFERENCES experiments,
        epoch INTEGER NOT NULL,
        at REAL NOT NULL,
        weights TEXT NOT NULL,  -- JSON
        runs TEXT NOT NULL,     -- JSON
        PRIMARY KEY (experiment, epoch)
    ) STRICT, WITHOUT ROWID;

    CREATE TABLE requests (
        number INTEGER PRIMARY KEY,
        experiment TEXT NOT NULL REFERENCES experiments,
        id TEXT NOT NULL,
        at REAL NOT NULL,
        ref TEXT NOT NULL,
        digest TEXT NOT NULL,
        route TEXT NOT NULL,
        epoch INTEGER NOT NULL,
        unit BLOB NOT NULL,
        status INTEGER NOT NULL,
        error TEXT,
        latency REAL NOT NULL,
        first_token REAL,
        prompt_tokens INTEGER NOT NULL,
        completion_tokens INTEGER NOT NULL,
        finish TEXT,
        UNIQUE (id, ref)  -- a shadow's answer has the id of the request that it repeats
    ) STRICT;

    -- New feedback on a request keeps the number of the first: reports read feedback in the order of its first arrival.
    CREATE TABLE feedback (
        number INTEGER PRIMARY KEY,
        request INTEGER NOT NULL UNIQUE REFERENCES requests,
        at REAL NOT NULL,
        score REAL NOT NULL,
        comment TEXT
    ) STRICT;
    """,
)
BUSY_SECONDS = 10.0
"""How long to wait for another process's lock."""


def open_to_write(path: Path) -> sqlite3.Connection:
    """Open the record at ``path`` to read and write it; create it if it does not exist, and update its schema.

    Raises:
        InputError: The file is not an experiment's record.
        FtregError: It was made by a newer ftreg.
        sqlite3.Error: It cannot be opened; see ``database_errors``.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        path.touch(0o600)  # it holds users' comments; SQLite gives the files beside it the same permissions
    database = connect(path, "rwc", busy_seconds=BUSY_SECONDS)
    try:
        _check(database, path)
        migrate(database, MIGRATIONS, busy_seconds=BUSY_SECONDS)
    except BaseException:
        database.close()
        raise
    return database


def open_to_read(path: Path) -> sqlite3.Connection:
    """Open the record at ``path`` to read it.

    Raises:
        UnknownName: There is no record. A file without tables counts as none: its server was killed while it started.
        InputError: The file is not an experiment's record.
        FtregError: It was made by a newer ftreg.
        sqlite3.Error: It cannot be opened; see ``database_errors``.
    """
    if not path.is_file():
        raise _missing(path)
    database = connect(path, "ro", busy_seconds=BUSY_SECONDS)
    try:
        _check(database, path)
        if _is_empty(database):
            raise _missing(path)
    except BaseException:
        database.close()
        raise
    return database


@contextmanager
def database_errors(path: Path) -> Iterator[None]:
    """Turn errors of SQLite and the system into errors that say what is wrong with the record at ``path``.

    Raises:
        DiskFull: No room is left.
        RegistryBusy: Another process holds the record's lock.
        FtregError: The record is damaged, or cannot be read or written.
    """
    try:
        yield
    except sqlite3.Error as error:
        translated = _translate(error, str(path))
        if translated is None:
            raise
        raise translated from error
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise _full(str(path)) from error
        raise _inaccessible(str(path), error) from error


def _check(database: sqlite3.Connection, path: Path) -> None:
    """Raise if the file belongs to another program, or was made by a newer ftreg."""
    (application,) = database.execute("PRAGMA application_id").fetchone()
    if application != APPLICATION and not _is_empty(database):
        raise InputError(
            "is not an experiment's record", where=str(path), hint="Give the experiment.db of a deployment."
        )
    check_schema_version(database, MIGRATIONS, "the record", path)


def _is_empty(database: sqlite3.Connection) -> bool:
    (tables,) = database.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    return not tables


def _missing(path: Path) -> UnknownName:
    hint = "The deployment's server makes it; if it is elsewhere, give its path as `db`, or its folder in $FTREG_STATE."
    return UnknownName("record", path.name, [], where=str(path), hint=hint)


def _translate(error: sqlite3.Error, where: str) -> FtregError | None:
    """Return the error to show for ``error``; None for a defect of ftreg's own."""
    match database_fault(error):
        case None:
            return None
        case DatabaseFault.DISK_FULL:
            return _full(where)
        case DatabaseFault.BUSY:
            return RegistryBusy("the record is locked by another process", where=where, hint="Try again.")
        case DatabaseFault.DAMAGED:
            hint = "Restore it from a copy, or move it away: the server then starts a new one."
            return FtregError(f"the experiment's record is damaged: {error}", where=where, hint=hint)
        case DatabaseFault.NO_ACCESS | DatabaseFault.IO_ERROR:
            return _inaccessible(where, error)


def _full(where: str) -> DiskFull:
    return DiskFull("the disk is full; the experiment's record cannot be written", where=where, hint="Free some space.")


def _inaccessible(where: str, error: Exception) -> FtregError:
    hint = "Check the disk and its permissions, or choose another folder with FTREG_STATE."
    return FtregError(f"the experiment's record cannot be read or written: {error}", where=where, hint=hint)
