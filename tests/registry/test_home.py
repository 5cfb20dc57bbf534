"""The home: where it is, and when it is refused."""

from __future__ import annotations

import errno
import os
import sqlite3
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from ftreg.core.errors import DiskFull, FtregError, InputError
from ftreg.registry import Registry
from ftreg.registry.home import find_home
from tests.registry.kit import FILES, blobs, publish, read, write


def test_the_home_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An argument wins over the environment, that over the nearest .ftreg, that over the user's data folder."""
    monkeypatch.delenv("FTREG_HOME", raising=False)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    (tmp_path / "project" / "deep").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "project" / "deep")
    assert find_home(None).is_relative_to(tmp_path / "data") or "ftreg" in find_home(None).name
    (tmp_path / "project" / ".ftreg").mkdir()
    assert find_home(None) == tmp_path / "project" / ".ftreg"
    monkeypatch.setenv("FTREG_HOME", str(tmp_path / "env"))
    assert find_home(None) == tmp_path / "env"
    assert find_home("given") == tmp_path / "project" / "deep" / "given"


def test_a_folder_with_other_things_is_refused(tmp_path: Path) -> None:
    """A registry does not spread among someone's files."""
    write(tmp_path / "documents", {"letter.txt": b"dear"})
    with pytest.raises(InputError, match=r"letter\.txt"):
        Registry(tmp_path / "documents")
    assert list(read(tmp_path / "documents")) == ["letter.txt"]


def test_a_file_is_refused(tmp_path: Path) -> None:
    """With an error that says so."""
    (tmp_path / "home").write_bytes(b"")
    with pytest.raises(InputError, match="is a file"):
        Registry(tmp_path / "home")


def test_an_interrupted_set_up_is_finished(tmp_path: Path) -> None:
    """FORMAT is written last; without it, everything is done again."""
    Registry(tmp_path / "home").close()
    (tmp_path / "home" / "FORMAT").unlink()
    with Registry(tmp_path / "home") as registry:
        assert publish(registry).ref == "bot:1"


def test_a_newer_format_is_refused(registry: Registry) -> None:
    """Before anything is read."""
    (registry.home / "FORMAT").write_text("ftreg-registry 2\n")
    with pytest.raises(FtregError, match="Upgrade ftreg"):
        Registry(registry.home)


def test_a_newer_schema_is_refused(registry: Registry) -> None:
    """The catalog stays as it is."""
    with sqlite3.connect(registry.home / "registry.db") as database:
        database.execute("PRAGMA user_version = 99")
    database.close()
    with pytest.raises(FtregError, match="schema 99"):
        Registry(registry.home)


def test_an_older_schema_is_migrated_or_left_alone(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    """A migration is run once, in one transaction: one that fails leaves nothing behind."""
    publish(registry)
    migrations = [*_migrations(), "CREATE TABLE extra (a) STRICT; INSERT INTO nowhere VALUES (1)"]
    monkeypatch.setattr("ftreg.registry.catalog.MIGRATIONS", migrations)
    with pytest.raises(sqlite3.OperationalError):
        Registry(registry.home)
    migrations[-1] = "CREATE TABLE extra (a INTEGER) STRICT"
    with Registry(registry.home) as again:
        assert again.get("bot").ref == "bot:1"
    with Registry(registry.home) as again:
        assert again.verify().ok


def _migrations() -> tuple[str, ...]:
    from ftreg.registry.schema import MIGRATIONS

    return MIGRATIONS


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MB, where this process may make one."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)], capture_output=True)
    if mounted.returncode:
        pytest.skip("this process may not mount")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_publishes_nothing_and_damages_nothing(small_disk: Path) -> None:
    """Wherever the room ends; when there is room again, everything goes on."""
    with Registry(small_disk / "home") as registry:
        publish(registry, "before", {"a": b"before"})
        filler = small_disk / "filler"
        failures = 0
        for free in range(64):
            _fill(small_disk, filler, leave=free * 4096)
            try:
                publish(registry, "bot", {"a": b"x" * 9000, "b": b"y" * 9000}, report={"loss.png": b"z" * 5000})
            except (DiskFull, OSError):  # OSError: the test's own writing into staging
                failures += 1
                assert registry.count() == 1
                assert registry.verify().ok
            else:
                break
        assert failures > 3
        filler.unlink()
        assert registry.get("bot").ref == "bot:1"
        registry.tag("bot", "k", "v")
        registry.gc(grace=0)
        assert registry.verify().ok


def _fill(disk: Path, filler: Path, *, leave: int) -> None:
    """Leave so many bytes of a disk."""
    filler.unlink(missing_ok=True)
    free = os.statvfs(disk)
    filler.write_bytes(b"\0" * max(0, free.f_bavail * free.f_bsize - leave))


def test_every_failing_fsync_publishes_nothing(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk is full at the first, second, third … call: the version is all there or not at all."""
    real = os.fsync
    left = 0

    def failing(file: int) -> None:
        nonlocal left
        left -= 1
        if left == 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(file)

    monkeypatch.setattr(os, "fsync", failing)
    failures = 0
    while not registry.count():
        left = failures + 1
        try:
            publish(registry, "bot", FILES)
        except DiskFull:
            failures += 1
            assert registry.count() == 0
            assert registry.verify().ok
    # Each file, each folder of a blob, their folder, the manifest and its folder. Last of all comes the journal: there
    # the version was committed, so it stands, and the next change catches up.
    assert failures == 7
    monkeypatch.undo()
    registry.tag("bot", "k", "v")
    registry.gc(grace=0)
    assert registry.verify().ok
    assert len(blobs(registry)) == len(FILES)


def test_a_full_database_is_a_full_disk(registry: Registry) -> None:
    """SQLite's own error becomes the same one; nothing is half written."""
    publish(registry, "before", {"a": b"1"})
    registry._catalog._db.execute("PRAGMA max_page_count = 1")
    with pytest.raises(DiskFull, match="nothing was published"):
        publish(registry, "bot", {"a": b"2"}, evidence=[("run", {"text": "x" * 500_000})])
    assert registry.count() == 1
    registry._catalog._db.execute("PRAGMA max_page_count = 1000000")
    assert registry.verify().ok
    assert publish(registry, "after", {"a": b"2"}).ref == "after:1"


def test_a_read_only_home_is_named(small_disk: Path) -> None:
    """Neither opening nor creating one ends in a riddle."""
    with Registry(small_disk / "home") as registry:
        publish(registry)
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(FtregError, match="read-only") as caught:
        Registry(small_disk / "home").get("bot")
    assert "--home" in str(caught.value)
    with pytest.raises(FtregError, match="read-only"):
        Registry(small_disk / "other")


def test_a_forbidden_home_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the system refuses to make it."""

    def refuse(self: Path, *arguments: object, **options: object) -> None:
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(FtregError, match="permission denied") as caught:
        Registry(tmp_path / "home")
    assert str(tmp_path / "home") in str(caught.value)
