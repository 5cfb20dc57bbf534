"""Eviction: files are given up and put back, and whatever happens in between, nothing else is lost."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from ftreg.core.errors import CorruptRegistry, FtregError, InputError
from ftreg.core.manifest import Producer
from ftreg.core.types import Version
from ftreg.registry import Registry
from ftreg.registry.failpoints import EVICT, RESTORE
from tests.registry.kit import FILES, blob_of, blobs, dump, publish, read, restore
from tests.registry.processes import run

SIZE = sum(map(len, FILES.values()))


def test_the_files_go_and_the_rest_stays(registry: Registry) -> None:
    """Manifest, parents, evidence and pointers stay; the version says that it is rebuildable."""
    base = publish(registry, "base", {"base.bin": b"base"})
    version = publish(registry, parents=[base], report={"loss.png": b"curve"}, tags={"stage": "test"})
    view = registry.source("bot").path
    registry.set_alias("bot:1", "champion")
    assert registry.evict("bot") == SIZE
    found = registry.get("bot@champion")
    assert (found.state, found.digest, found.manifest, found.tags) == (
        "rebuildable", version.digest, version.manifest, {"stage": "test"},
    )  # fmt: skip
    assert [summary.state for summary in registry.summaries()] == ["rebuildable", "here"]
    assert not view.exists()
    assert registry.evidence("bot")[0].files["loss.png"].read_bytes() == b"curve"
    assert registry.lineage("bot").parents(version.digest)
    assert registry.events("bot", limit=1)[0].action == "evicted"
    report = registry.verify()
    assert (report.ok, report.rebuildable) == (True, 1)
    assert registry.gc(grace=0).size == 0


def test_files_that_others_need_stay(registry: Registry) -> None:
    """Files that another version lists, evidence has, or the caller names are not given up."""
    publish(registry, "bot", {"own": b"own", "shared": b"shared", "curve": b"curve", "kept": b"kept"})
    publish(registry, "other", {"same": b"shared"}, report={"loss.png": b"curve"})
    before = blobs(registry)
    assert registry.evict("bot", keep=["kept"]) == len(b"own")
    assert len(before - blobs(registry)) == 1
    assert registry.read_file("bot", "kept") == b"kept"
    registry.gc(grace=0)
    assert len(before - blobs(registry)) == 1
    registry.delete("other:1")
    registry.gc(grace=0)
    assert len(blobs(registry)) == 1
    assert registry.verify().ok


def test_opening_makes_the_files_again(registry: Registry) -> None:
    """``source`` calls what ``making_again`` sets; without it, the error says what to do; others' files are refused."""
    publish(registry)
    registry.evict("bot")
    with pytest.raises(FtregError, match=r"the files of bot:1 were given up(.|\n)*ftreg\.restore\('bot:1'\)"):
        registry.source("bot")
    with pytest.raises(FtregError, match=r"not the files of bot:1: weights/model\.bin differ or are missing"):
        restore(registry, "bot", {**FILES, "weights/model.bin": b"others"})
    made: list[Version] = []

    def make(version: Version) -> None:
        made.append(version)
        restore(registry, version.digest)

    with registry.making_again(make):
        assert read(registry.source("bot").path) == FILES
        registry.source("bot")
    assert [version.ref for version in made] == ["bot:1"]
    assert registry.get("bot").state == "here"
    assert registry.events("bot", limit=1)[0].action == "restored"


def test_work_that_does_not_restore_is_noticed(registry: Registry) -> None:
    """If the function that should restore the files does not, the version is not opened."""
    publish(registry)
    registry.evict("bot")
    with registry.making_again(lambda _: None), pytest.raises(FtregError, match="the files of bot:1 were given up"):
        registry.source("bot")


def test_files_are_checked_one_version_at_a_time(registry: Registry) -> None:
    """A changed file is found by hashing, and by a look at its seal; what was given up is not expected."""
    version = publish(registry)
    registry.check_files("bot")
    blob = blob_of(registry, version, "config.json")
    before = blob.stat()
    blob.chmod(0o644)
    blob.write_bytes(b"[]")
    with pytest.raises(CorruptRegistry, match=r"config\.json does not have the content"):
        registry.check_files("bot", quick=True)
    os.utime(blob, ns=(before.st_atime_ns, before.st_mtime_ns))
    blob.chmod(0o444)
    registry.check_files("bot", quick=True)
    with pytest.raises(CorruptRegistry, match=r"config\.json does not have the content"):
        registry.check_files("bot")
    registry.evict("bot")
    registry.check_files("bot")


def test_publishing_the_same_again_restores_it(registry: Registry) -> None:
    """The same work, done again under any name, brings the files back."""
    for name in ("bot", "twin"):
        publish(registry)
        registry.evict("bot")
        publish(registry, name)
        assert registry.get("bot").state == "here"
        assert read(registry.source("bot").path) == FILES


def test_an_import_is_not_given_up(registry: Registry) -> None:
    """What was imported cannot be made again."""
    publish(registry, producer=Producer("import", "base", "core", "ftreg", ""))
    with pytest.raises(InputError, match="was imported"):
        registry.evict("bot")


def test_a_rebuilt_catalog_knows_it(registry: Registry) -> None:
    """The event log says which versions are rebuildable, also after a version was collected and published again."""
    for name in ("bot", "gone", "back"):
        publish(registry, name, {"a": name.encode()})
        registry.evict(name)
    restore(registry, "back", {"a": b"back"})
    registry.delete("gone:1")
    registry.gc(grace=0)
    publish(registry, "gone", {"a": b"gone"})
    before = dump(registry.home)
    assert len(before["evicted"]) == 1
    Registry.rebuild(registry.home)
    assert dump(registry.home) == before
    with Registry(registry.home) as again:
        assert {version.ref: version.state for version in again.summaries()} == {
            "bot:1": "rebuildable", "gone:2": "here", "back:1": "here",
        }  # fmt: skip
        assert again.verify().ok


@pytest.mark.parametrize("failpoint", EVICT)
def test_a_killed_eviction_loses_nothing_else(tmp_path: Path, failpoint: str) -> None:
    """Killed while it removes files, an eviction leaves a rebuildable version, and ``gc`` frees the rest."""
    home = tmp_path / "home"
    with Registry(home) as registry:
        publish(registry)
        registry.source("bot")
        other = publish(registry, "other", {"same.json": FILES["config.json"]})
    assert run(home, "evict", failpoint=failpoint) == -signal.SIGKILL
    with Registry(home) as registry:
        assert registry.get("bot").state == "rebuildable"
        assert registry.verify().ok
        registry.gc(grace=0)
        assert blobs(registry) == {entry.blake3 for entry in other.manifest.files}
        assert not list((home / "views").iterdir())
        restore(registry, "bot")
        assert read(registry.source("bot").path) == FILES
        assert registry.verify().ok


@pytest.mark.parametrize("failpoint", RESTORE)
def test_a_killed_restoration_can_be_done_again(tmp_path: Path, failpoint: str) -> None:
    """Killed before the event, the version stays rebuildable; killed after it, it has its files."""
    home = tmp_path / "home"
    with Registry(home) as registry:
        publish(registry)
        registry.evict("bot")
    assert run(home, "give_back", failpoint=failpoint) == -signal.SIGKILL
    with Registry(home) as registry:
        assert registry.get("bot").state == ("here" if failpoint == "committed" else "rebuildable")
        assert registry.verify().ok
        registry.gc(grace=0)
        restore(registry, "bot")
        assert read(registry.source("bot").path) == FILES
        assert registry.verify().ok


def test_usage_counts_each_byte_once(registry: Registry) -> None:
    """What a version has alone and what it shares are told apart, and what was given up is what is missing."""
    publish(registry, "one", {"own": b"1234", "shared": b"shared"})
    publish(registry, "two", {"own": b"12345678", "shared": b"shared"}, report={"loss.png": b"curve"})
    usage = registry.usage()
    assert [(each.ref, each.own, each.shared, each.saved) for each in usage.versions] == [
        ("two:1", 8, 6, 0), ("one:1", 4, 6, 0),
    ]  # fmt: skip
    assert (usage.files, usage.evidence, usage.unreferenced, usage.views, usage.saved) == (18, 5, 0, 0, 0)
    registry.source("one")
    assert registry.usage().views in (0, 10)  # hard links, or clones
    registry.evict("two")
    usage = registry.usage()
    assert [(each.ref, each.state, each.own, each.shared, each.saved) for each in usage.versions] == [
        ("one:1", "here", 10, 0, 0), ("two:1", "rebuildable", 0, 6, 8),
    ]  # fmt: skip
    assert (usage.files, usage.evidence, usage.saved) == (10, 5, 8)
    registry.delete("one:1")
    assert registry.usage().unreferenced == 0  # a deleted version's files are needed until its manifest is collected
