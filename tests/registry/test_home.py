"""The registry's home: how it is found, how it is set up, and when it is refused."""

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
    """The argument has priority over the environment, then comes the nearest .ftreg, then the user's data folder."""
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
    """A folder that holds other files is refused and left as it is."""
    write(tmp_path / "documents", {"letter.txt": b"dear"})
    with pytest.raises(InputError, match=r"letter\.txt"):
        Registry(tmp_path / "documents")
    assert list(read(tmp_path / "documents")) == ["letter.txt"]


def test_a_file_is_refused(tmp_path: Path) -> None:
    """A file in the place of the home is refused."""
    (tmp_path / "home").write_bytes(b"")
    with pytest.raises(InputError, match="is a file"):
        Registry(tmp_path / "home")


def test_an_interrupted_set_up_is_finished(tmp_path: Path) -> None:
    """A home without FORMAT, which is written last, is set up again."""
    Registry(tmp_path / "home").close()
    (tmp_path / "home" / "FORMAT").unlink()
    with Registry(tmp_path / "home") as registry:
        assert publish(registry).ref == "bot:1"


def test_a_newer_format_is_refused(registry: Registry) -> None:
    """A home whose format is newer is refused."""
    (registry.home / "FORMAT").write_text("ftreg-registry 2\n")
    with pytest.raises(FtregError, match="Upgrade ftreg"):
        Registry(registry.home)


def test_a_newer_schema_is_refused(registry: Registry) -> None:
    """A catalog whose schema is newer is refused."""
    with sqlite3.connect(registry.home / "registry.db") as database:
        database.execute("PRAGMA user_version = 99")
    database.close()
    with pytest.raises(FtregError, match="schema 99"):
        Registry(registry.home)


def test_an_older_schema_is_migrated_or_left_alone(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    """A migration is run once, in one transaction: a failing one changes nothing."""
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
    """Mount a file system of 2 MB; skip the test if this process may not."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)], capture_output=True)
    if mounted.returncode:
        pytest.skip("this process may not mount")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_publishes_nothing_and_damages_nothing(small_disk: Path) -> None:
    """A full disk, wherever it strikes, publishes nothing and damages nothing; with space again, everything works."""
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
    """Fill a disk so that ``leave`` bytes stay free."""
    filler.unlink(missing_ok=True)
    free = os.statvfs(disk)
    filler.write_bytes(b"\0" * max(0, free.f_bavail * free.f_bsize - leave))


def test_every_failing_fsync_publishes_nothing(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    """If any fsync fails for lack of space, the version is either complete or not there at all."""
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
    # Two files, the folders of their blobs, the folder of those, the manifest and its folder. The journal comes last:
    # by then the version is committed, and the next change brings the journal up to date.
    assert failures == 7
    monkeypatch.undo()
    registry.tag("bot", "k", "v")
    registry.gc(grace=0)
    assert registry.verify().ok
    assert len(blobs(registry)) == len(FILES)


def test_a_full_database_is_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A database that cannot grow is reported as a full disk, and the version is not there."""
    connections: list[sqlite3.Connection] = []
    connect = sqlite3.connect

    def keep(*arguments: object, **options: object) -> sqlite3.Connection:
        connections.append(connect(*arguments, **options))
        return connections[-1]

    monkeypatch.setattr(sqlite3, "connect", keep)
    with Registry(tmp_path / "home") as registry:
        publish(registry, "before", {"a": b"1"})
        connections[-1].execute("PRAGMA max_page_count = 1")
        with pytest.raises(DiskFull, match="nothing was published"):
            publish(registry, "bot", {"a": b"2"}, evidence=[("run", {"text": "x" * 500_000})])
        assert registry.count() == 1
        connections[-1].execute("PRAGMA max_page_count = 1000000")
        assert registry.verify().ok
        assert publish(registry, "after", {"a": b"2"}).ref == "after:1"


def test_a_read_only_home_is_named(small_disk: Path) -> None:
    """Opening a read-only registry, or creating one on a read-only disk, says that it is read-only."""
    with Registry(small_disk / "home") as registry:
        publish(registry)
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(FtregError, match="read-only") as caught:
        Registry(small_disk / "home").get("bot")
    assert "--home" in str(caught.value)
    with pytest.raises(FtregError, match="read-only"):
        Registry(small_disk / "other")


def test_a_forbidden_home_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A home that the operating system forbids to create is named in the error."""

    def refuse(self: Path, *arguments: object, **options: object) -> None:
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(FtregError, match="permission denied") as caught:
        Registry(tmp_path / "home")
    assert str(tmp_path / "home") in str(caught.value)
