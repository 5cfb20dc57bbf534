"""Publishing: identity, deduplication, numbers, and refusals."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ftreg.core.errors import CorruptRegistry, FtregError, InputError
from ftreg.core.manifest import FileEntry, Manifest, Parent, Producer
from ftreg.registry import Draft, Registry, cache_key
from tests.registry.kit import FILES, PRODUCER, blob_of, blobs, publish, read, write


def test_a_version_comes_back_as_it_was_published(registry: Registry) -> None:
    """A published version comes back with its files, tags, parents, facts and number."""
    base = publish(registry, "base", {"b.bin": b"base"})
    version = publish(registry, "bot", FILES, parents=[base], tags={"stage": "test"}, facts={"rank": (1, 2)})
    again = registry.get("bot")
    assert again == version
    assert (again.ref, again.kind, again.size) == ("bot:1", "checkpoint", sum(map(len, FILES.values())))
    assert again.manifest.parents == (Parent("base", base.digest),)
    assert again.manifest.facts == {"rank": [1, 2]}
    assert again.tags == {"stage": "test"}
    assert read(registry.source("bot").path) == FILES


def test_the_same_work_is_the_same_digest_anywhere(registry: Registry, tmp_path: Path) -> None:
    """The digest does not depend on time, place or name."""
    with Registry(tmp_path / "other") as other:
        assert publish(registry, "one").digest == publish(other, "two").digest


def test_publishing_twice_returns_the_version_that_is_there(registry: Registry) -> None:
    """Publishing the same version again returns the existing one and adds only new tags."""
    first = publish(registry, tags={"a": "1"}, report={"loss.png": b"1"})
    events = len(registry.events())
    second = publish(registry, tags={"a": "1", "b": "2"}, report={"loss.png": b"2"})
    assert second.ref == first.ref
    assert second.tags == {"a": "1", "b": "2"}
    assert len(registry.events()) == events + 1
    assert [record.files["loss.png"].read_bytes() for record in registry.evidence("bot")] == [b"1"]


def test_two_names_share_one_digest_and_its_bytes(registry: Registry) -> None:
    """Two names with the same digest share the stored files, and each has its own numbers."""
    one, two = publish(registry, "one"), publish(registry, "two")
    assert (one.digest, one.number, two.number) == (two.digest, 1, 1)
    assert len(blobs(registry)) == len(FILES)
    assert registry.get(one.digest).ref == "one:1"
    registry.delete("one:1")
    assert registry.get(one.digest).ref == "two:1"


def test_numbers_are_never_given_again(registry: Registry) -> None:
    """A number is not used again after a deletion, not even for the same files."""
    publish(registry, "bot", {"a": b"1"})
    registry.delete("bot:1")
    assert publish(registry, "bot", {"a": b"1"}).number == 2
    registry.delete("bot:2")
    registry.gc(grace=0)
    assert publish(registry, "bot", {"a": b"2"}).number == 3


def test_own_files_are_moved_not_copied(registry: Registry) -> None:
    """A staged file is moved: the stored blob is the same file, now read-only."""
    with registry.staging() as staging:
        write(staging.files, {"a.bin": b"a"})
        inode = (staging.files / "a.bin").stat().st_ino
        version = registry.publish("bot", Draft(folder=staging.files, kind="adapter", producer=PRODUCER))
        assert not (staging.files / "a.bin").exists()
    blob = blob_of(registry, version, "a.bin")
    assert blob.stat().st_ino == inode
    assert blob.stat().st_mode & 0o777 == 0o444


def test_a_staged_file_with_another_name_gets_bytes_of_its_own(registry: Registry, tmp_path: Path) -> None:
    """A staged file with a second hard link is copied, so that the blob cannot be changed through that link."""
    outside = tmp_path / "outside.bin"
    outside.write_bytes(b"published")
    with registry.staging() as staging:
        os.link(outside, staging.files / "a.bin")
        version = registry.publish("bot", Draft(folder=staging.files, kind="adapter", producer=PRODUCER))
    outside.write_bytes(b"changed!!")
    assert blob_of(registry, version, "a.bin").read_bytes() == b"published"


def test_publishing_again_puts_a_missing_blob_back(registry: Registry) -> None:
    """Publishing a damaged version again restores its missing file."""
    version = publish(registry)
    blob_of(registry, version, "config.json").unlink()
    assert not registry.verify().ok
    assert publish(registry).ref == version.ref
    assert registry.verify().ok


def test_staging_is_removed_whatever_happens(registry: Registry) -> None:
    """Staging is removed when its block ends with an exception."""

    def fail() -> None:
        with registry.staging() as staging:
            (staging.files / "half.bin").write_bytes(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert not list((registry.home / "tmp").iterdir())


ODD: dict[str, Callable[[Path], object]] = {
    "link": lambda folder: (folder / "link").symlink_to("/etc/passwd"),
    "folder link": lambda folder: (folder / "link").symlink_to("/etc"),
    "pipe": lambda folder: os.mkfifo(folder / "pipe"),
    "backslash": lambda folder: (folder / "a\\b").write_bytes(b""),
    "newline": lambda folder: (folder / "a\nb").write_bytes(b""),
    "undecodable name": lambda folder: (folder / os.fsdecode(b"\xff")).write_bytes(b""),
    "names that differ by case": lambda folder: write(folder, {"Model.bin": b"1", "model.bin": b"2"}),
    "nothing": lambda folder: None,
}


@pytest.mark.parametrize("kind", ODD)
def test_what_is_no_plain_file_with_a_safe_name_is_refused(registry: Registry, kind: str) -> None:
    """Links, pipes, unsafe names and empty folders are refused, and nothing is stored."""
    with registry.staging() as staging:
        ODD[kind](staging.files)
        with pytest.raises(FtregError):
            registry.publish("bot", Draft(folder=staging.files, kind="adapter", producer=PRODUCER))
    assert registry.count() == 0
    assert not blobs(registry)
    assert not registry.events()


@pytest.mark.parametrize("name", ["", "Bot", "../bot", "a b", "con", "bot:1", "bot@x", "b3", "x" * 97])
def test_bad_names_are_refused(registry: Registry, name: str) -> None:
    """A name that the validator does not accept is refused."""
    with pytest.raises(InputError):
        publish(registry, name)


@pytest.mark.parametrize("tags", [{"A": "x"}, {"a": ""}, {"a": "x\ny"}, {"a": "x" * 600}])
def test_bad_tags_are_refused(registry: Registry, tags: dict[str, str]) -> None:
    """Tags with a key that is not a name, or with an empty, long or unprintable value, are refused with the version."""
    with pytest.raises(InputError):
        publish(registry, tags=tags)
    assert registry.count() == 0


def test_a_folder_outside_of_staging_is_refused(registry: Registry, tmp_path: Path) -> None:
    """A folder outside staging is refused and left as it is, since publishing moves files."""
    write(tmp_path / "mine", FILES)
    with pytest.raises(FtregError, match="not in a staging folder of this registry"):
        registry.publish("bot", Draft(folder=tmp_path / "mine", kind="adapter", producer=PRODUCER))
    assert read(tmp_path / "mine") == FILES


def test_a_parent_that_is_not_there_is_refused(registry: Registry) -> None:
    """A version whose parent is not in the registry is refused, and ``gc`` frees its files."""
    with registry.staging() as staging:
        write(staging.files, FILES)
        parents = [Parent("base", "b3:" + "0" * 64)]
        draft = Draft(folder=staging.files, kind="adapter", producer=PRODUCER, parents=parents)
        with pytest.raises(FtregError, match="not in the registry"):
            registry.publish("bot", draft)
    assert registry.count() == 0
    registry.gc(grace=0)
    assert not blobs(registry)


@pytest.mark.parametrize("facts", [{"loss": float("nan")}, {"model": object()}])
def test_facts_that_json_cannot_hold_are_refused(registry: Registry, facts: dict[str, Any]) -> None:
    """Facts that JSON cannot hold are refused."""
    with pytest.raises(FtregError, match="JSON"):
        publish(registry, facts=facts)


def test_the_newest_version_that_a_step_made_is_found_by_its_key(registry: Registry) -> None:
    """The cache key covers producer, parents and environment, and the newest version with the key is found."""
    base = publish(registry, "base", {"b": b"base"})
    made = publish(registry, "bot", {"a": b"1"}, parents=[base])
    environment = made.manifest.environment
    assert registry.find_produced(cache_key(PRODUCER, [Parent("base", base.digest)], environment)) == made
    other = Producer("method", "lora", "methods", "ftreg", "0.1.0", {"rank": 16})
    assert registry.find_produced(cache_key(other, [Parent("base", base.digest)], environment)) is None
    assert registry.find_produced(cache_key(PRODUCER, [Parent("init", base.digest)], environment)) is None
    assert registry.find_produced(cache_key(PRODUCER, [Parent("base", base.digest)], {"torch": "2.14.0"})) is None
    newer = publish(registry, "bot", {"a": b"2"}, parents=[base])
    assert registry.find_produced(cache_key(PRODUCER, [Parent("base", base.digest)], environment)) == newer


@pytest.mark.parametrize("path", ["../evil", "/etc/passwd", "a/../../b", "a\\b", "C:x", ""])
def test_a_manifest_with_an_unsafe_path_is_not_used(registry: Registry, path: str) -> None:
    """A manifest that lists an unsafe path is refused, even if its digest is right."""
    data = Manifest("adapter", "t", (FileEntry(path, 1, "0" * 64),), (), PRODUCER).to_bytes()
    _slip_in(registry, data)
    with pytest.raises(CorruptRegistry, match="unsafe file"):
        registry.source("bot")


def test_a_manifest_with_an_unsafe_hash_is_not_used(registry: Registry) -> None:
    """A manifest whose hash would lead out of the blobs' folder is refused."""
    data = Manifest("adapter", "t", (FileEntry("a", 1, "../../../../etc/passwd"),), (), PRODUCER).to_bytes()
    _slip_in(registry, data)
    with pytest.raises(CorruptRegistry, match="not a BLAKE3 hash"):
        registry.source("bot")


def _slip_in(registry: Registry, data: bytes) -> None:
    """Bring a manifest into the registry without ``publish``, as an imported bundle might."""
    from ftreg.registry.blobs import store_manifest
    from ftreg.registry.catalog import Catalog
    from ftreg.registry.home import Home
    from ftreg.registry.records import Event

    home = Home(registry.home)
    digest = store_manifest(home, data, home.tmp)
    catalog = Catalog(home.database)
    with catalog.transaction():
        stand_in = Manifest("adapter", "t", (), (), PRODUCER)
        catalog.append(Event.now("published", digest, "bot", 1), stand_in)
    catalog.close()
