"""SQLite databases: opening, transactions, migrations, and what SQLite's errors mean.

Writers of one database wait for one another; readers see one state throughout a transaction and block nobody. Whatever
a transaction has committed is on disk (``synchronous = FULL``, a write-ahead log).
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import Literal

from ftreg.core.errors import FtregError

_WAL_POLL_SECONDS = 0.01


class DatabaseFault(Enum):
    """What an error of SQLite says about the machine or the file, as opposed to a defect of the caller."""

    DISK_FULL = "there is no room left on the disk"
    BUSY = "another process has held the lock for too long"
    DAMAGED = "the file is damaged, or is not a database"
    NO_ACCESS = "the file cannot be opened, or is read-only"
    IO_ERROR = "reading or writing failed"


_FAULTS = {
    sqlite3.SQLITE_FULL: DatabaseFault.DISK_FULL,
    sqlite3.SQLITE_BUSY: DatabaseFault.BUSY,
    sqlite3.SQLITE_LOCKED: DatabaseFault.BUSY,
    sqlite3.SQLITE_CORRUPT: DatabaseFault.DAMAGED,
    sqlite3.SQLITE_NOTADB: DatabaseFault.DAMAGED,
    sqlite3.SQLITE_READONLY: DatabaseFault.NO_ACCESS,
    sqlite3.SQLITE_CANTOPEN: DatabaseFault.NO_ACCESS,
    sqlite3.SQLITE_PERM: DatabaseFault.NO_ACCESS,
    sqlite3.SQLITE_IOERR: DatabaseFault.IO_ERROR,
}


def database_fault(error: sqlite3.Error) -> DatabaseFault | None:
    """Return the fault that ``error`` reports; None for anything else, such as wrong SQL or a broken constraint."""
    return _FAULTS.get(getattr(error, "sqlite_errorcode", 0) & 0xFF)  # the primary result code


def connect(path: Path, mode: Literal["ro", "rw", "rwc"], *, busy_seconds: float) -> sqlite3.Connection:
    """Open the database at ``path``; any thread may use the connection, one at a time.

    Args:
        path: The file.
        mode: Read only, read and write, or also create the file.
        busy_seconds: How long to wait for another process's lock.

    Raises:
        sqlite3.Error: It cannot be opened; see ``database_fault``.
    """
    database = sqlite3.connect(
        f"{path.absolute().as_uri()}?mode={mode}",
        uri=True,
        isolation_level=None,
        timeout=busy_seconds,
        check_same_thread=False,
    )
    try:
        database.execute("PRAGMA synchronous = FULL")
        database.execute("PRAGMA foreign_keys = ON")
        database.execute("PRAGMA trusted_schema = OFF")
    except BaseException:
        database.close()
        raise
    return database


@contextmanager
def transaction(database: sqlite3.Connection, *, write: bool = True) -> Iterator[None]:
    """Run the body in one transaction: all of it is committed, durably, or nothing."""
    database.execute("BEGIN IMMEDIATE" if write else "BEGIN")
    try:
        yield
        database.execute("COMMIT")
    except BaseException:
        if database.in_transaction:
            database.execute("ROLLBACK")
        raise


def schema_version(database: sqlite3.Connection) -> int:
    """Return the number of the newest migration that has run."""
    version: int = database.execute("PRAGMA user_version").fetchone()[0]
    return version


def check_schema_version(database: sqlite3.Connection, migrations: Sequence[str], what: str, path: Path) -> None:
    """Raise ``FtregError`` if a newer ftreg has made the database; ``what`` names it in the message."""
    version = schema_version(database)
    if version > len(migrations):
        raise FtregError(
            f"{what} has schema {version}; this ftreg knows up to {len(migrations)}",
            where=str(path),
            hint="Upgrade ftreg.",
        )


def migrate(database: sqlite3.Connection, migrations: Sequence[str], *, busy_seconds: float) -> None:
    """Run the migrations that have not run yet, each in one transaction. Several processes may do so at once.

    Args:
        database: The database.
        migrations: SQL scripts, numbered from 1; a released one never changes.
        busy_seconds: How long to wait for another process's lock.
    """
    _use_write_ahead_log(database, busy_seconds)
    while schema_version(database) < len(migrations):
        with transaction(database):
            version = schema_version(database)  # another process may have been faster
            if version < len(migrations):
                for statement in _statements(migrations[version]):
                    database.execute(statement)
                database.execute(f"PRAGMA user_version = {version + 1}")


def _use_write_ahead_log(database: sqlite3.Connection, busy_seconds: float) -> None:
    """Switch to a write-ahead log. SQLite itself does not wait for the lock that this takes."""
    deadline = time.monotonic() + busy_seconds
    while True:
        try:
            database.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if database_fault(error) is not DatabaseFault.BUSY or time.monotonic() > deadline:
                raise
            time.sleep(_WAL_POLL_SECONDS)


def _statements(script: str) -> Iterator[str]:
    """Split a script into statements; semicolons within triggers, strings and comments do not end one.

    ``sqlite3.Connection.executescript`` cannot be used, because it commits the open transaction first.
    """
    statement = ""
    for part in script.split(";"):
        statement += part + ";"
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""
