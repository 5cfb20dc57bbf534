"""The file of experiments' records: its schema, how it is opened, and what its faults mean."""

from __future__ import annotations

import errno
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ftreg.core.errors import DiskFull, FtregError, InputError, RegistryBusy, UnknownName

# Numbered from 1, each run in one transaction and never changed once released.
MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        """
        CREATE TABLE experiments (
            id TEXT PRIMARY KEY,
            name TEXT NOT NULL,
            deployment TEXT NOT NULL,  -- JSON, with the variants' digests
            created REAL NOT NULL,
            opened REAL NOT NULL
        ) STRICT, WITHOUT ROWID
        """,
        """
        CREATE TABLE allocations (
            experiment TEXT NOT NULL REFERENCES experiments,
            epoch INTEGER NOT NULL,
            at REAL NOT NULL,
            weights TEXT NOT NULL,  -- JSON
            runs TEXT NOT NULL,     -- JSON
            PRIMARY KEY (experiment, epoch)
        ) STRICT, WITHOUT ROWID
        """,
        """
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
            UNIQUE (id, ref)  -- a shadow's answer has the id of the request that it follows
        ) STRICT
        """,
        # A request's feedback keeps the number that it first got: reports read it in the order in which it came.
        """
        CREATE TABLE feedback (
            number INTEGER PRIMARY KEY,
            request INTEGER NOT NULL UNIQUE REFERENCES requests,
            at REAL NOT NULL,
            score REAL NOT NULL,
            comment TEXT
        ) STRICT
        """,
    ),
)
APPLICATION = 0x66747265  # "ftre": tells the record from other programs' SQLite files
_BUSY_SECONDS = 10.0


def connect(path: Path, *, create: bool) -> sqlite3.Connection:
    """Open the record at ``path``: to write it, made where it is missing (``create``), or only to read it.

    A file that is empty, for its server was killed before it wrote anything, is as good as missing.

    Raises:
        UnknownName: There is none to read.
        InputError: The file is something else.
        FtregError: It was made by a newer ftreg.
        sqlite3.Error: It cannot be opened; see ``faults``.
    """
    if create:
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            path.touch(0o600)  # it holds what users said; SQLite gives the files beside it the same permissions
    elif not path.is_file():
        raise _missing(path)
    database = sqlite3.connect(
        f"{path.resolve().as_uri()}?mode={'rwc' if create else 'ro'}",
        uri=True,
        isolation_level=None,
        timeout=_BUSY_SECONDS,
        check_same_thread=False,  # opened by one thread, then used by the writer's alone
    )
    try:
        empty = _check(database, path)
        if create:
            _prepare(database)
        elif empty:
            raise _missing(path)
    except BaseException:
        database.close()
        raise
    return database


def _missing(path: Path) -> UnknownName:
    hint = "The deployment's server makes it; if it is elsewhere, give its path as `db`, or its folder in $FTREG_STATE."
    return UnknownName("record", path.name, [], where=str(path), hint=hint)


def _check(database: sqlite3.Connection, path: Path) -> bool:
    """Raise for a file that is not ours, or newer than this ftreg; return whether there is nothing in it."""
    schema = _one(database, "PRAGMA user_version")
    empty = not _one(database, "SELECT count(*) FROM sqlite_schema")
    if not empty and _one(database, "PRAGMA application_id") != APPLICATION:
        raise InputError("is no experiment's record", where=str(path), hint="Give the experiment.db of a deployment.")
    if schema > len(MIGRATIONS):
        raise FtregError(
            f"the record has schema {schema}; this ftreg knows up to {len(MIGRATIONS)}",
            where=str(path),
            hint="Upgrade ftreg.",
        )
    return empty


def _prepare(database: sqlite3.Connection) -> None:
    """Make the file safe for several processes, and bring its schema up to date."""
    _use_write_ahead_log(database)
    database.execute("PRAGMA synchronous = FULL")
    database.execute("PRAGMA foreign_keys = ON")
    with transaction(database):
        schema = _one(database, "PRAGMA user_version")  # another process may have been faster
        for statements in MIGRATIONS[schema:]:
            for statement in statements:
                database.execute(statement)
        database.execute(f"PRAGMA user_version = {len(MIGRATIONS)}")
        database.execute(f"PRAGMA application_id = {APPLICATION}")


def _use_write_ahead_log(database: sqlite3.Connection) -> None:
    """Let readers and a writer work at the same time. SQLite does not wait for its lock here, so that we do."""
    deadline = time.monotonic() + _BUSY_SECONDS
    while True:
        try:
            database.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if _code(error) != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(0.01)


@contextmanager
def transaction(database: sqlite3.Connection, *, write: bool = True) -> Iterator[None]:
    """Run the body in one transaction: all of it is done, durably, or none; readers see one state throughout."""
    database.execute("BEGIN IMMEDIATE" if write else "BEGIN")
    try:
        yield
        database.execute("COMMIT")
    except BaseException:
        if database.in_transaction:
            database.execute("ROLLBACK")
        raise


@contextmanager
def faults(path: Path) -> Iterator[None]:
    """Turn what SQLite and the system raise into errors that say what is wrong with the record at ``path``.

    Raises:
        DiskFull: No room is left.
        RegistryBusy: Another process holds the record's lock.
        FtregError: The record is damaged, or cannot be read or written.
    """
    try:
        yield
    except sqlite3.Error as error:
        fault = _fault(error, str(path))
        if fault is None:
            raise
        raise fault from error
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise _full(str(path)) from error
        raise _unusable(str(path), error) from error


def _fault(error: sqlite3.Error, where: str) -> FtregError | None:
    """The ftreg error that says what ``error`` means; None where it is a defect of ours."""
    match _code(error):
        case sqlite3.SQLITE_FULL:
            return _full(where)
        case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED:
            return RegistryBusy("the record is locked by another process", where=where, hint="Try again.")
        case sqlite3.SQLITE_CORRUPT | sqlite3.SQLITE_NOTADB:
            hint = "Restore it from a copy, or move it away: the server starts a new one."
            return FtregError(f"the experiment's record is damaged: {error}", where=where, hint=hint)
        case sqlite3.SQLITE_READONLY | sqlite3.SQLITE_CANTOPEN | sqlite3.SQLITE_PERM | sqlite3.SQLITE_IOERR:
            return _unusable(where, error)
        case _:
            return None


def _full(where: str) -> DiskFull:
    return DiskFull("the disk is full; the experiment's record cannot be written", where=where, hint="Free some space.")


def _unusable(where: str, error: Exception) -> FtregError:
    hint = "Check the disk and its permissions, or choose another folder with FTREG_STATE."
    return FtregError(f"the experiment's record cannot be read or written: {error}", where=where, hint=hint)


def _code(error: sqlite3.Error) -> int:
    """SQLite's primary result code."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


def _one(database: sqlite3.Connection, query: str) -> int:
    number: int = database.execute(query).fetchone()[0]
    return number
