"""A registry whose process was killed with SIGKILL, at any failpoint, is intact when it is next opened."""

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
    """Killed before the transaction ends, a commit leaves no version; killed after it, a complete one."""
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

        # The same commit can be made again, and its number was not used up.
        assert run(home, "commit") == 0
        assert registry.get("bot").ref == "bot:1"
        publish(registry, "bot", {"other.bin": b"other"})
        assert [event.id for event in read_journal(home / "events.jsonl")] == list(range(1, 1 + len(registry.events())))
        assert registry.verify().ok


@pytest.mark.parametrize("failpoint", COMMIT[:6])
def test_gc_frees_all_that_a_killed_commit_left(tmp_path: Path, failpoint: str) -> None:
    """Killed before the transaction, a commit leaves only files that the next ``gc`` frees."""
    home = tmp_path / "home"
    with Registry(home) as registry:
        base = publish(registry, "base", {"base.bin": b"base"})
    run(home, "commit", failpoint=failpoint)
    with Registry(home) as registry:
        registry.gc(grace=0)
        assert blobs(registry) == {entry.blake3 for entry in base.manifest.files}


@pytest.mark.parametrize("failpoint", COLLECT)
def test_a_killed_gc_can_be_run_again(tmp_path: Path, failpoint: str) -> None:
    """Killed while it frees files, ``gc`` damages nothing, and the next ``gc`` frees the rest."""
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
    """Each file is synced, then renamed, then its folder is synced, and only then the version becomes visible."""
    publish(registry, "bot", {"old.bin": b"stored before"})
    before: list[tuple[str, str]] = []  # what is done before another process can see the version
    real_fsync, real_rename = os.fsync, Path.rename

    def note(*what: str) -> None:
        with Registry(registry.home) as observer:
            if observer.count() == 1:
                before.append(what)

    def fsync(file: int) -> None:
        note("fsync", str(Path(f"/proc/self/fd/{file}").readlink()))
        real_fsync(file)

    def rename(self: Path, target: Path) -> Path:
        note("rename", f"{self} {target}")
        return real_rename(self, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(Path, "rename", rename)
    version = publish(registry, "bot", {"new.bin": b"new", "old.bin": b"stored before"})

    renames = [what.split() for kind, what in before if kind == "rename"]
    assert len(renames) == 2  # new.bin and the manifest
    for source, target in renames:
        renamed = before.index(("rename", f"{source} {target}"))
        assert ("fsync", source) in before[:renamed]
        assert ("fsync", str(Path(target).parent)) in before[renamed:]
    # The folder of a blob that existed is synced too: the process that stored it may have been killed before it did.
    assert ("fsync", str(blob_of(registry, version, "old.bin").parent)) in before
    assert ("fsync", str(registry.home / "events.jsonl")) not in before  # the journal follows the catalog


def test_staging_of_a_killed_process_goes_and_that_of_a_live_one_stays(registry: Registry) -> None:
    """``gc`` removes the staging of a killed process and never that of a live one, whatever the grace period."""
    assert run(registry.home, "abandon") == -signal.SIGKILL
    with registry.staging() as staging:
        (staging.files / "work.bin").write_bytes(b"work")
        assert len(list((registry.home / "tmp").iterdir())) == 2
        assert registry.gc(grace=0).staging == 1
        assert run(registry.home, "collect") == 0
        assert (staging.files / "work.bin").read_bytes() == b"work"
    assert not list((registry.home / "tmp").iterdir())
