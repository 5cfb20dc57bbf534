"""SQLite databases: durable transactions, migrations by several processes, and faults told from defects."""

from __future__ import annotations

import sqlite3
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from ftreg.core.database import (
    DatabaseFault,
    check_schema_version,
    connect,
    database_fault,
    migrate,
    schema_version,
    transaction,
)
from ftreg.core.errors import FtregError

SCRIPT = """
    CREATE TABLE numbers (  -- a comment; it doesn't end the statement
        number INTEGER
    ) STRICT;
    CREATE TRIGGER never_deleted BEFORE DELETE ON numbers
        BEGIN SELECT RAISE(ABORT, 'numbers; are kept'); END;
    INSERT INTO numbers VALUES (1)
"""


def numbers(database: sqlite3.Connection) -> list[int]:
    """The rows of the table that ``SCRIPT`` makes."""
    return [number for (number,) in database.execute("SELECT number FROM numbers ORDER BY number")]


def test_a_script_is_run_statement_by_statement(tmp_path: Path) -> None:
    """Semicolons in comments, strings and triggers do not end a statement, and the last one needs none."""
    with closing(connect(tmp_path / "a.db", "rwc", busy_seconds=1)) as database:
        migrate(database, [SCRIPT], busy_seconds=1)
        assert numbers(database) == [1]
        assert schema_version(database) == 1
        with pytest.raises(sqlite3.IntegrityError, match="are kept"):
            database.execute("DELETE FROM numbers")


def test_a_migration_that_fails_leaves_nothing_behind(tmp_path: Path) -> None:
    """A migration runs as a whole or not at all; the ones before it stay."""
    broken = "CREATE TABLE extra (a INTEGER) STRICT; INSERT INTO nowhere VALUES (1);"
    with closing(connect(tmp_path / "a.db", "rwc", busy_seconds=1)) as database:
        with pytest.raises(sqlite3.OperationalError):
            migrate(database, [SCRIPT, broken], busy_seconds=1)
        assert schema_version(database) == 1
        assert database.execute("SELECT name FROM sqlite_schema WHERE type = 'table'").fetchall() == [("numbers",)]


def test_several_may_migrate_at_once(tmp_path: Path) -> None:
    """Of many connections that migrate one database at the same time, one does the work."""
    together = threading.Barrier(4)

    def run(_: int) -> list[int]:
        with closing(connect(tmp_path / "a.db", "rwc", busy_seconds=60)) as database:
            together.wait(60)
            migrate(database, [SCRIPT], busy_seconds=60)
            return numbers(database)

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(run, range(4))) == [[1]] * 4


def test_a_transaction_is_all_or_nothing(tmp_path: Path) -> None:
    """An exception in the body rolls everything back, and the next transaction works."""
    with closing(connect(tmp_path / "a.db", "rwc", busy_seconds=1)) as database:
        migrate(database, [SCRIPT], busy_seconds=1)
        with pytest.raises(sqlite3.IntegrityError, match="are kept"), transaction(database):
            [database.execute(text) for text in ("INSERT INTO numbers VALUES (2)", "DELETE FROM numbers")]
        with transaction(database):
            database.execute("INSERT INTO numbers VALUES (3)")
        assert numbers(database) == [1, 3]


def test_what_is_committed_is_durable(tmp_path: Path) -> None:
    """Every connection syncs each commit, checks foreign keys, and writes ahead."""
    with closing(connect(tmp_path / "a.db", "rwc", busy_seconds=1)) as database:
        migrate(database, [SCRIPT], busy_seconds=1)
        pragmas = {name: database.execute(f"PRAGMA {name}").fetchone()[0] for name in ("synchronous", "foreign_keys")}
        assert pragmas == {"synchronous": 2, "foreign_keys": 1}
        assert database.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_faults_are_told_from_defects(tmp_path: Path) -> None:
    """A lock, a damaged file, a missing file and a full disk are faults; wrong SQL is not."""
    path = tmp_path / "a.db"
    with (
        closing(connect(path, "rwc", busy_seconds=0)) as database,
        closing(connect(path, "rw", busy_seconds=0)) as other,
    ):
        migrate(database, [SCRIPT], busy_seconds=0)
        with transaction(database), pytest.raises(sqlite3.OperationalError) as busy:
            other.execute("BEGIN IMMEDIATE")
        pages = database.execute("PRAGMA page_count").fetchone()[0]
        database.execute(f"PRAGMA max_page_count = {pages}")
        with pytest.raises(sqlite3.OperationalError) as full, transaction(database):
            database.execute("CREATE TABLE another (a INTEGER) STRICT")
        with pytest.raises(sqlite3.OperationalError) as wrong:
            database.execute("SELECT nothing FROM nowhere")
    (tmp_path / "b.db").write_bytes(b"this is not a database" * 100)
    with (
        pytest.raises(sqlite3.DatabaseError) as damaged,
        closing(connect(tmp_path / "b.db", "rw", busy_seconds=0)) as bad,
    ):
        schema_version(bad)
    with pytest.raises(sqlite3.OperationalError) as missing:
        connect(tmp_path / "c.db", "rw", busy_seconds=0)
    assert [database_fault(caught.value) for caught in (busy, full, damaged, missing, wrong)] == [
        DatabaseFault.BUSY,
        DatabaseFault.DISK_FULL,
        DatabaseFault.DAMAGED,
        DatabaseFault.NO_ACCESS,
        None,
    ]


def test_a_newer_schema_is_refused(tmp_path: Path) -> None:
    """The error names the database and says what to do."""
    path = tmp_path / "a.db"
    with closing(connect(path, "rwc", busy_seconds=1)) as database:
        migrate(database, [SCRIPT, "SELECT 1"], busy_seconds=1)
        check_schema_version(database, [SCRIPT, "SELECT 1"], "the catalog", path)
        with pytest.raises(FtregError, match=r"the catalog has schema 2.*\n.*Upgrade ftreg"):
            check_schema_version(database, [SCRIPT], "the catalog", path)
