"""Several processes that work on one registry at the same time."""

from __future__ import annotations

from pathlib import Path

import pytest

from ftreg.core.errors import RegistryBusy
from ftreg.registry import Registry
from ftreg.registry.home import Home
from ftreg.registry.journal import read_journal
from tests.registry.kit import publish
from tests.registry.processes import run_together

PROCESSES = 8


def test_eight_processes_open_a_fresh_home_and_register_at_once(tmp_path: Path) -> None:
    """Each process sets up the home or waits for it; no version is lost, and the numbers have no gaps."""
    home = tmp_path / "home"
    run_together(home, [("register", str(worker), "5") for worker in range(PROCESSES)])
    with Registry(home) as registry:
        versions = registry.list(limit=None)
        assert [version.number for version in versions] == list(range(PROCESSES * 5, 0, -1))
        contents = {(registry.source(version.ref).path / "a.bin").read_text() for version in versions}
        assert contents == {f"{worker}-{index}" for worker in range(PROCESSES) for index in range(5)}
        assert [event.id for event in read_journal(home / "events.jsonl")] == list(range(1, PROCESSES * 5 + 1))
        assert registry.verify().ok


def test_gc_among_writers_takes_nothing_that_they_need(tmp_path: Path) -> None:
    """While ``gc`` runs, writers publish the files that it is about to free; every version stays complete."""
    home = tmp_path / "home"
    Registry(home).close()
    run_together(home, [*(("churn", str(worker), "16") for worker in range(3)), ("collect_often", "40")])
    with Registry(home) as registry:
        for worker in range(3):
            assert registry.list(name=f"bot-{worker}")
        report = registry.verify()
        assert report.ok, report.damages


def test_gc_gives_up_where_a_writer_does_not_finish(registry: Registry) -> None:
    """If a writer holds the lock, ``gc`` raises ``RegistryBusy`` and changes nothing."""
    publish(registry)
    with Home(registry.home).lock(), pytest.raises(RegistryBusy, match="writing"):
        registry.gc(grace=0, timeout=0.05)
    assert registry.verify().ok


def test_a_dry_run_does_not_wait_for_writers(registry: Registry) -> None:
    """A dry run of ``gc`` works while a writer holds the lock."""
    publish(registry)
    with Home(registry.home).lock():
        assert registry.gc(grace=0, dry_run=True, timeout=0.05).blobs == 0
