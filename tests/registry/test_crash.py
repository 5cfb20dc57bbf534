"""Killed with SIGKILL at every failpoint, the registry is whole when it is next opened."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from ftreg.registry import Registry
from ftreg.registry.failpoints import COLLECT, COMMIT
from ftreg.registry.journal import read_journal
from tests.registry.kit import blob_of, blobs, dump, publish, reachable
from tests.registry.processes import run


@pytest.mark.parametrize("failpoint", COMMIT)
def test_a_killed_commit_leaves_a_whole_version_or_none(tmp_path: Path, failpoint: str) -> None:
    """Before the transaction ends there is no trace of the version; after it the version is complete."""
    home = tmp_path / "home"
    with Registry(home) as registry:
        publish(registry, "base", {"base.bin": b"base"})
    before = dump(home)

    assert run(home, "commit", failpoint=failpoint) == -signal.SIGKILL

    with Registry(home) as registry:
        assert registry.verify().ok
        if failpoint in ("committed", "mirrored"):
            version = registry.get("bot:1")
            assert version.tags == {"stage": "test"}
            assert [record.type for record in registry.evidence("bot:1")] == ["run"]
            assert registry.evidence("bot:1")[0].files["loss.png"].read_bytes() == b"picture"
            assert registry.lineage("bot:1").parents(version.digest)
        else:
            assert dump(home) == before

        registry.gc(grace=0)
        assert blobs(registry) >= reachable(registry, registry.list())
        assert len(list((home / "manifests").iterdir())) == registry.count()
        assert not list((home / "tmp").iterdir())
        assert registry.verify().ok

        # Nothing stands in the way of doing it again, and the number was not used up.
        assert run(home, "commit") == 0
        assert registry.get("bot").ref == "bot:1"
        publish(registry, "bot", {"other.bin": b"other"})
        assert [event.id for event in read_journal(home / "events.jsonl")] == list(range(1, 1 + len(registry.events())))
        assert registry.verify().ok


@pytest.mark.parametrize("failpoint", COMMIT[:6])
def test_gc_frees_all_that_a_killed_commit_left(tmp_path: Path, failpoint: str) -> None:
    """Killed before the transaction, a commit leaves only bytes that the next gc frees."""
    home = tmp_path / "home"
    with Registry(home) as registry:
        base = publish(registry, "base", {"base.bin": b"base"})
    run(home, "commit", failpoint=failpoint)
    with Registry(home) as registry:
        registry.gc(grace=0)
        assert blobs(registry) == {entry.blake3 for entry in base.manifest.files}


@pytest.mark.parametrize("failpoint", COLLECT)
def test_a_killed_gc_can_be_run_again(tmp_path: Path, failpoint: str) -> None:
    """Killed while it frees, gc leaves nothing that is needed damaged, and nothing that it cannot free later."""
    home = tmp_path / "home"
    with Registry(home) as registry:
        kept = publish(registry, "kept", {"a.bin": b"kept", "same.bin": b"same"})
        publish(registry, "gone", {"b.bin": b"gone", "c.bin": b"gone too", "same.bin": b"same"})
        registry.delete("gone:1")

    assert run(home, "collect", failpoint=failpoint) == -signal.SIGKILL

    with Registry(home) as registry:
        assert registry.verify().ok
        registry.gc(grace=0)
        assert blobs(registry) == {entry.blake3 for entry in kept.manifest.files}
        assert registry.verify().ok
        assert publish(registry, "gone", {"b.bin": b"gone"}).number == 2


def test_everything_is_durable_before_the_catalog_says_so(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the order that survives a power cut: bytes, then their name, then the name's folder, then the transaction."""
    publish(registry, "bot", {"old.bin": b"stored before"})
    done: list[tuple[str, str]] = []
    real_fsync, real_rename = os.fsync, Path.rename

    def fsync(file: int) -> None:
        done.append(("fsync", str(Path(f"/proc/self/fd/{file}").readlink())))
        real_fsync(file)

    def rename(self: Path, target: Path) -> Path:
        done.append(("rename", f"{self} {target}"))
        return real_rename(self, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(Path, "rename", rename)
    registry._catalog._db.set_trace_callback(lambda statement: done.append(("sql", statement)))
    version = publish(registry, "bot", {"new.bin": b"new", "old.bin": b"stored before"})

    commit = done.index(("sql", "COMMIT"))
    renames = [what.split() for kind, what in done if kind == "rename"]
    assert len(renames) == 2  # new.bin and the manifest
    for source, target in renames:
        renamed = done.index(("rename", f"{source} {target}"))
        assert ("fsync", source) in done[:renamed]
        assert ("fsync", str(Path(target).parent)) in done[renamed:commit]
    # The folder of a blob that was there is synced too: who stored it may have died before that.
    assert ("fsync", str(blob_of(registry, version, "old.bin").parent)) in done[:commit]


def test_staging_of_a_killed_process_goes_and_that_of_a_live_one_stays(registry: Registry) -> None:
    """Gc tells them apart by the lease, whatever the grace."""
    assert run(registry.home, "abandon") == -signal.SIGKILL
    with registry.staging() as staging:
        (staging.files / "work.bin").write_bytes(b"work")
        assert len(list((registry.home / "tmp").iterdir())) == 2
        assert registry.gc(grace=0).staging == 1
        assert run(registry.home, "collect") == 0
        assert (staging.files / "work.bin").read_bytes() == b"work"
    assert not list((registry.home / "tmp").iterdir())
