"""Upkeep of a registry: delete, gc, verify and rebuild."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ftreg.core.errors import CorruptRegistry, InputError, UnknownName
from ftreg.registry import Registry, cache_key
from ftreg.registry.blobs import SEAL_TIME
from ftreg.registry.runs import hold_run
from tests.registry.kit import FILES, blob_of, blobs, dump, publish, write


def test_delete_needs_a_number(registry: Registry) -> None:
    """Deleting by a name or an alias is refused; it takes a number."""
    publish(registry)
    with pytest.raises(InputError, match="which version to delete"):
        registry.delete("bot")
    registry.set_alias("bot:1", "champion")
    with pytest.raises(InputError, match="which version to delete"):
        registry.delete("bot@champion")


def test_delete_is_refused_while_an_alias_points_there(registry: Registry) -> None:
    """A version with an alias cannot be deleted, not even by force, until the alias is removed."""
    publish(registry)
    registry.set_alias("bot:1", "champion")
    for force in (False, True):
        with pytest.raises(InputError, match="champion"):
            registry.delete("bot:1", force=force)
    registry.remove_alias("bot", "champion")
    assert registry.delete("bot:1") == ()
    with pytest.raises(UnknownName, match="bot:1"):
        registry.get("bot:1")


def test_one_of_two_names_is_deleted(registry: Registry) -> None:
    """Deleting one of two versions with one digest leaves the other with its files, and says that it keeps them."""
    digest = publish(registry, "one").digest
    publish(registry, "two")
    assert registry.delete("one:1") == ("two:1",)
    assert registry.gc(grace=0).size == 0
    assert registry.get(digest).ref == "two:1"
    assert registry.source("two:1").path.joinpath("config.json").is_file()


def test_a_deleted_parent_stays_for_its_children(registry: Registry) -> None:
    """A parent is deleted only by force, and its files stay until its last child is gone."""
    base = publish(registry, "base", {"base.bin": b"base"}, report={"loss.png": b"base curve"})
    child = publish(registry, "child", {"child.bin": b"child"}, parents=[base])
    with pytest.raises(InputError, match="parent of child:1"):
        registry.delete("base:1")
    assert registry.delete("base:1", force=True) == ("child:1",)
    assert registry.gc(grace=0).size == 0
    assert registry.source("child").parent("base").path.joinpath("base.bin").read_bytes() == b"base"
    assert registry.lineage("child").deleted == {base.digest}
    assert registry.lineage("child").nodes[base.digest].ref == "base:1"
    assert registry.verify().ok
    registry.delete(child.ref)
    assert registry.gc(grace=0).manifests == 2
    assert not blobs(registry)
    with pytest.raises(UnknownName):
        registry.get(base.digest)


def test_gc_keeps_the_young_and_says_how_much_waits(registry: Registry) -> None:
    """``gc`` keeps unreferenced files within the grace period, and a dry run frees nothing."""
    publish(registry)
    registry.delete("bot:1")
    size = sum(map(len, FILES.values()))
    young = registry.gc(grace=3600)
    assert (young.size, young.waiting, young.manifests) == (0, 0, 0)  # a young manifest keeps its files whole
    dry = registry.gc(grace=0, dry_run=True)
    assert (dry.size, dry.blobs, dry.manifests) == (size, len(FILES), 1)
    assert len(blobs(registry)) == len(FILES)
    freed = registry.gc(grace=0)
    assert (freed.size, freed.blobs) == (size, len(FILES))
    assert not blobs(registry)
    assert registry.gc(grace=0).size == 0


def test_gc_counts_young_orphans_as_waiting(registry: Registry) -> None:
    """An unreferenced blob counts as waiting until the grace period is over, and is freed then."""
    orphan = registry.home / "blobs" / "b3" / "00" / ("0" * 64)
    orphan.parent.mkdir()
    orphan.write_bytes(b"orphan")
    assert registry.gc(grace=3600).waiting == 6
    assert orphan.exists()
    assert registry.gc(grace=0).size == 6
    assert not orphan.exists()


def test_gc_removes_views_of_what_is_gone(registry: Registry) -> None:
    """``gc`` removes the views of deleted versions and keeps those of others."""
    publish(registry, "kept", {"a": b"kept"})
    publish(registry, "gone", {"a": b"gone"}, report={"loss.png": b"curve"})
    kept, gone = registry.source("kept").path, registry.source("gone").path
    curve = registry.evidence("gone")[0].files["loss.png"]
    registry.delete("gone:1")
    registry.gc(grace=0)
    assert kept.is_dir()
    assert not gone.exists()
    assert not curve.parent.exists()


def test_gc_frees_nothing_where_a_manifest_is_damaged(registry: Registry) -> None:
    """``gc`` frees nothing while a manifest cannot be read."""
    version = publish(registry, "bot", {"a": b"1"})
    publish(registry, "gone", {"a": b"2"})
    registry.delete("gone:1")
    manifest = registry.home / "manifests" / f"{version.digest[3:]}.json"
    manifest.chmod(0o644)
    manifest.write_text("{}")
    with pytest.raises(CorruptRegistry, match="nothing can be freed"):
        registry.gc(grace=0)
    assert len(blobs(registry)) == 2


def leave_run(registry: Registry, key: str, size: int, *, age: float = 0) -> Path:
    """Leave the folder of a training of ``bot`` with a checkpoint of some bytes, written ``age`` seconds ago."""
    folder = registry.home / "runs" / key
    os.close(hold_run(folder, "bot"))
    if size:
        write(folder, {"checkpoint-3/model.safetensors": b"x" * size})
    then = time.time() - age
    for path in (folder / "lock", *folder.rglob("*.safetensors")):
        os.utime(path, (then, then))
    return folder


def test_gc_frees_the_checkpoints_of_a_published_training(registry: Registry) -> None:
    """``gc`` frees the folder of a training whose result is published, and one that holds nothing to resume from."""
    version = publish(registry)
    key = cache_key(version.manifest.producer, version.manifest.parents, version.manifest.environment)
    done, empty = leave_run(registry, key, 10), leave_run(registry, "empty", 0)
    dry = registry.gc(dry_run=True)
    assert (dry.size, {run.folder for run in dry.runs}) == (10, {done, empty})
    assert done.is_dir()
    freed = registry.gc()
    assert freed.size == 10
    assert {run.state for run in freed.runs} == {"published", "empty"}
    assert not list((registry.home / "runs").iterdir())


def test_gc_keeps_unfinished_trainings_unless_told(registry: Registry) -> None:
    """``gc`` keeps a training that may be resumed, and says what it holds; ``runs`` frees it once it is old."""
    old, young = leave_run(registry, "old", 10, age=7200), leave_run(registry, "young", 20)
    kept = registry.gc(grace=0).kept_runs
    assert [(run.folder, run.name, run.size, run.state) for run in kept] == [
        (young, "bot", 20, "unfinished"),
        (old, "bot", 10, "unfinished"),
    ]
    report = registry.gc(runs=True, grace=3600)
    assert [run.folder for run in report.runs] == [old]
    assert not old.exists()
    assert (young / "checkpoint-3" / "model.safetensors").stat().st_size == 20
    assert registry.gc(runs=True, grace=0).size == 20
    assert not young.exists()


def test_gc_leaves_a_running_training_alone(registry: Registry) -> None:
    """The folder that a process holds stays, whatever ``gc`` is told, and counts as running."""
    version = publish(registry)
    key = cache_key(version.manifest.producer, version.manifest.parents, version.manifest.environment)
    folder = leave_run(registry, key, 10)
    lock = hold_run(folder, "bot")
    report = registry.gc(runs=True, grace=0)
    assert report.runs == ()
    assert [run.state for run in report.kept_runs] == ["running"]
    assert (folder / "checkpoint-3" / "model.safetensors").exists()
    os.close(lock)
    assert len(registry.gc().runs) == 1


def overwrite(path: Path, data: bytes) -> None:
    """Write into a sealed file."""
    path.chmod(0o644)
    path.write_bytes(data)


def replace_by_link(path: Path) -> None:
    """Move a file elsewhere and put a link to it in its place."""
    moved = path.with_name("elsewhere")
    path.rename(moved)
    path.symlink_to(moved)


DAMAGES: dict[str, Callable[[Path], object]] = {
    "truncated": lambda blob: overwrite(blob, blob.read_bytes()[:-1]),
    "changed": lambda blob: overwrite(blob, b"\xff" * blob.stat().st_size),
    "removed": lambda blob: blob.unlink(),
    "link": replace_by_link,
}


@pytest.mark.parametrize("quick", [True, False])
@pytest.mark.parametrize("damage", DAMAGES)
def test_verify_finds_a_damaged_blob(registry: Registry, damage: str, quick: bool) -> None:
    """``verify``, quick or full, names the damaged file and its version, and opening the version fails too."""
    version = publish(registry)
    blob = blob_of(registry, version, "weights/model.bin")
    DAMAGES[damage](blob)
    report = registry.verify(quick=quick)
    (found,) = report.damages
    assert found.where == str(blob)
    assert "weights/model.bin of bot:1" in found.problem
    assert found.hint
    with pytest.raises(CorruptRegistry, match=r"weights/model\.bin"):
        registry.source("bot")


def test_only_a_full_verify_finds_a_change_that_hides_itself(registry: Registry) -> None:
    """A change that restores size, mode and time is found by a full ``verify`` only."""
    blob = blob_of(registry, publish(registry), "weights/model.bin")
    DAMAGES["changed"](blob)
    blob.chmod(0o444)
    os.utime(blob, (SEAL_TIME, SEAL_TIME))
    assert registry.verify(quick=True).ok
    assert not registry.verify().ok


def test_a_broken_seal_over_whole_bytes_is_put_back(registry: Registry) -> None:
    """A file whose mode and time changed, but not its content, is sealed again and not reported."""
    blob = blob_of(registry, publish(registry), "config.json")
    blob.chmod(0o644)
    blob.touch()
    assert registry.verify(quick=True).ok
    assert blob.stat().st_mtime == SEAL_TIME
    assert blob.stat().st_mode & 0o777 == 0o444


def test_verify_of_one_version_looks_at_what_it_was_made_from(registry: Registry) -> None:
    """``verify`` of one version checks its ancestors too, and no other versions."""
    base = publish(registry, "base", {"a": b"base"})
    publish(registry, "child", {"a": b"child"}, parents=[base])
    other = publish(registry, "other", {"a": b"other"})
    blob_of(registry, other, "a").unlink()
    assert registry.verify("child").ok
    assert registry.verify("child").versions == 2
    blob_of(registry, base, "a").unlink()
    assert not registry.verify("child").ok


def test_verify_finds_a_damaged_or_missing_manifest(registry: Registry) -> None:
    """A changed manifest and a missing one are both reported with the version's name."""
    base = publish(registry, "base", {"a": b"base"})
    publish(registry, "child", {"a": b"child"}, parents=[base])
    path = registry.home / "manifests" / f"{base.digest[3:]}.json"
    data = path.read_bytes()
    path.unlink()
    path.write_bytes(data.replace(b'"rank":8', b'"rank":9'))
    assert [damage.problem for damage in registry.verify().damages] == ["a manifest was changed (base:1)"]
    path.unlink()
    assert [damage.problem for damage in registry.verify().damages] == ["a manifest is missing (base:1)"]


@pytest.mark.parametrize(
    ("statement", "where"),
    [
        ("UPDATE manifests SET kind = 'onnx'", "registry.db"),
        ("UPDATE manifests SET size = 1", "registry.db"),
        ("DELETE FROM edges", "registry.db"),
        ("INSERT INTO aliases VALUES ('bot', 'ghost', 9)", "registry.db"),
        ("DELETE FROM versions; DELETE FROM manifests WHERE digest IN (SELECT parent FROM edges)", "b3:"),
    ],
)
def test_verify_finds_a_catalog_that_says_otherwise(registry: Registry, statement: str, where: str) -> None:
    """Rows of the catalog that were changed from outside are reported."""
    base = publish(registry, "base", {"a": b"base"})
    publish(registry, "bot", {"a": b"child"}, parents=[base])
    with sqlite3.connect(registry.home / "registry.db") as database:
        database.executescript(f"PRAGMA foreign_keys = OFF; {statement}")
    database.close()
    assert any(where in damage.where for damage in registry.verify().damages)


def test_verify_compares_the_journal(registry: Registry) -> None:
    """A changed line of the journal is reported, and so is a catalog that is older than the journal."""
    publish(registry)
    registry.tag("bot", "k", "v")
    journal = registry.home / "events.jsonl"
    text = journal.read_text()
    journal.write_text(text.replace('"value":"v"', '"value":"w"'))
    assert [damage.problem for damage in registry.verify().damages] == ["event 2 differs from the catalog's"]
    journal.write_text(text + text.splitlines()[-1].replace('"id":2', '"id":3') + "\n")
    assert [damage.problem for damage in registry.verify().damages] == [
        "the catalog has 2 events and the journal has 3"
    ]
    journal.write_text("not json\n" + text)
    assert "cannot be read" in registry.verify().damages[0].problem


def test_a_torn_line_in_the_journal_is_cut_off(registry: Registry) -> None:
    """An incomplete last line of the journal is not damage, and the next change completes it."""
    publish(registry)
    journal = registry.home / "events.jsonl"
    whole = journal.read_bytes()
    journal.write_bytes(whole[:-20])
    assert registry.verify().ok
    registry.tag("bot", "k", "v")
    assert journal.read_bytes().startswith(whole)
    assert journal.read_bytes().count(b"\n") == 2


def test_a_deleted_journal_is_written_anew(registry: Registry) -> None:
    """A deleted journal is written again with the next change, even if a line is longer than one block."""
    publish(registry, evidence=[("run", {"curve": ["x" * 1000] * 100})])
    journal = registry.home / "events.jsonl"
    whole = journal.read_bytes()
    journal.unlink()
    registry.tag("bot", "k", "v")
    registry.tag("bot", "k", "w")
    assert journal.read_bytes().startswith(whole)
    assert len(journal.read_bytes().splitlines()) == 4
    assert registry.verify().ok


def fill(registry: Registry) -> None:
    """Do most things that change a registry."""
    base = publish(registry, "base", {"a": b"base"}, tags={"license": "mit"})
    for number in range(3):
        publish(registry, "bot", {"a": str(number).encode()}, parents=[base], report={"loss.png": b"p"})
    registry.set_alias("bot:1", "champion")
    registry.set_alias("bot:2", "champion")
    registry.set_alias("bot:2", "canary")
    registry.remove_alias("bot", "canary")
    registry.add_evidence("bot:3", "evaluation", {"loss": 1.0})
    registry.tag("bot:3", "stage", "test")
    registry.untag("base:1", "license")
    registry.delete("bot:1")
    registry.delete("base:1", force=True)
    registry.gc(grace=0)
    publish(registry, "bot", {"a": b"0"}, parents=[base])


@pytest.mark.parametrize("loss", ["removed", "garbage"])
def test_the_catalog_can_be_rebuilt(registry: Registry, loss: str) -> None:
    """A lost or damaged catalog is rebuilt row for row from the manifests and the journal."""
    fill(registry)
    before = dump(registry.home)
    registry.close()
    database = registry.home / "registry.db"
    for path in registry.home.glob("registry.db*"):
        path.unlink()
    if loss == "garbage":
        database.write_bytes(b"garbage" * 1000)
    with pytest.raises(CorruptRegistry, match=r"Registry\.rebuild\(\)"):
        Registry(registry.home).count()
    report = Registry.rebuild(registry.home)
    assert dump(registry.home) == before
    assert report.lost == ()
    with Registry(registry.home) as again:
        assert report.versions == again.count() == 3
        assert again.get("bot@champion").ref == "bot:2"
        assert again.verify().ok
        assert publish(again, "bot", {"a": b"new"}).number == 5


def test_a_rebuild_under_an_open_registry_loses_nothing(registry: Registry) -> None:
    """A registry that is open during a rebuild writes its next change into the new catalog."""
    fill(registry)
    Registry.rebuild(registry.home)
    registry.tag("bot:3", "after", "rebuild")
    with Registry(registry.home) as again:
        assert again.get("bot:3").tags["after"] == "rebuild"
        assert again.verify().ok


def test_a_rebuild_says_which_versions_are_lost(registry: Registry) -> None:
    """A rebuild names the versions whose manifest is lost; their numbers and aliases are not used for others."""
    publish(registry, "bot", {"a": b"1"})
    lost = publish(registry, "bot", {"a": b"2"}, evidence=[("run", {})])
    registry.set_alias("bot:1", "champion")
    registry.set_alias("bot:2", "champion")
    registry.close()
    (registry.home / "manifests" / f"{lost.digest[3:]}.json").unlink()
    (registry.home / "registry.db").unlink()
    assert Registry.rebuild(registry.home).lost == ("bot:2",)
    with Registry(registry.home) as again:
        assert again.get("bot").ref == "bot:1"
        with pytest.raises(UnknownName):
            again.get("bot@champion")
        assert publish(again, "bot", {"a": b"3"}).number == 3


def test_a_rebuild_needs_an_event_log(registry: Registry, tmp_path: Path) -> None:
    """Without a journal, or without a registry, a rebuild is refused."""
    with pytest.raises(CorruptRegistry, match="no journal"):
        Registry.rebuild(registry.home)
    with pytest.raises(InputError, match="not a registry"):
        Registry.rebuild(tmp_path / "nowhere")


def test_an_unfinished_view_is_damage_and_is_made_again(registry: Registry) -> None:
    """``verify`` reports an incomplete view, and opening the version repairs it."""
    publish(registry)
    view = registry.source("bot").path
    (view / "config.json").unlink()
    write(view, {"extra.json": b"{}"})
    assert "view" in registry.verify(quick=True).damages[0].problem
    assert registry.source("bot").path == view
    assert registry.verify().ok
    assert not (view / "extra.json").exists()
