"""References: what each form names, and what the error proposes if it names nothing."""

from __future__ import annotations

import itertools

import pytest
from blake3 import blake3

from ftreg.core.errors import InputError, UnknownName
from ftreg.core.manifest import FileEntry, Manifest
from ftreg.registry import Registry
from ftreg.registry.blobs import digest_of
from tests.registry.kit import PRODUCER, publish


def test_every_kind_of_reference_finds_its_version(registry: Registry) -> None:
    """A name, a number, an alias, a digest and a digest prefix each find their version."""
    one, two = publish(registry, "bot", {"a": b"1"}), publish(registry, "bot", {"a": b"2"})
    registry.set_alias("bot:1", "champion")
    assert registry.get("bot").ref == "bot:2"
    assert registry.get("bot:1").digest == one.digest
    assert registry.get("bot@champion").ref == "bot:1"
    assert registry.get(two.digest).ref == registry.get(two.digest[:12]).ref == "bot:2"


@pytest.mark.parametrize(
    ("ref", "expected"),
    [
        ("bat", "Did you mean bot?"),
        ("bot:7", "Did you mean bot:1?"),
        ("bot@champoin", "Did you mean bot@champion?"),
        ("b3:ffffffff", "registry.list()"),
    ],
)
def test_an_unknown_reference_gets_the_nearest(registry: Registry, ref: str, expected: str) -> None:
    """The error names the unknown reference and proposes the nearest known one."""
    publish(registry)
    registry.set_alias("bot:1", "champion")
    with pytest.raises(UnknownName) as caught:
        registry.get(ref)
    assert repr(ref) in str(caught.value)
    assert expected in str(caught.value)


@pytest.mark.parametrize("ref", ["", "bot:", "bot:0", "bot:x", "bot@", "b3:", "b3:xyz", "../bot", "Bot"])
def test_what_is_no_reference_is_refused(registry: Registry, ref: str) -> None:
    """Text that is not a reference is refused as bad input."""
    with pytest.raises(InputError):
        registry.get(ref)


def test_an_ambiguous_digest_lists_its_candidates(registry: Registry) -> None:
    """A prefix that two digests share is refused, and the error lists both versions."""
    seen: dict[str, bytes] = {}
    for number in itertools.count():
        data = str(number).encode()
        entry = FileEntry("a", len(data), blake3(data).hexdigest())
        manifest = Manifest("checkpoint", "text-generation", (entry,), (), PRODUCER, {"torch": "2.13.0"})
        prefix = digest_of(manifest.to_bytes())[:7]
        if prefix in seen:
            break
        seen[prefix] = data
    publish(registry, "bot", {"a": seen[prefix]})
    version = publish(registry, "bot", {"a": data})
    assert version.digest.startswith(prefix)
    with pytest.raises(InputError, match="several digests start with") as caught:
        registry.get(prefix)
    assert "bot:1" in str(caught.value)
    assert "bot:2" in str(caught.value)


def test_lists_filter_by_name_kind_and_tag(registry: Registry) -> None:
    """Lists are filtered by name, kind and tags together, newest first, up to the limit."""
    for number in range(3):
        publish(registry, "bot", {"a": str(number).encode()}, tags={"odd": str(number % 2), "all": "yes"})
    publish(registry, "other", {"b": b""})
    assert [version.ref for version in registry.list()] == ["other:1", "bot:3", "bot:2", "bot:1"]
    assert [version.ref for version in registry.list(name="bot", limit=2)] == ["bot:3", "bot:2"]
    assert [version.ref for version in registry.list(tags={"odd": "0", "all": "yes"})] == ["bot:3", "bot:1"]
    assert registry.list(kind="onnx") == []
    assert [found.ref for found in registry.summaries(kind="checkpoint", limit=1)] == ["other:1"]
    with pytest.raises(UnknownName, match="bat"):
        registry.list(name="bat")


def test_the_lineage_holds_all_generations(registry: Registry) -> None:
    """The lineage holds all ancestors and descendants with their edges, and no other versions."""
    base = publish(registry, "base", {"a": b"base"})
    tuned = publish(registry, "tuned", {"a": b"tuned"}, parents=[base])
    merged = publish(registry, "merged", {"a": b"merged"}, parents=[base, tuned])
    sibling = publish(registry, "sibling", {"a": b"sibling"}, parents=[base])
    lineage = registry.lineage("tuned")
    assert set(lineage.nodes) == {base.digest, tuned.digest, merged.digest}
    assert {(edge.child, edge.parent) for edge in lineage.edges} == {
        (tuned.digest, base.digest),
        (merged.digest, base.digest),
        (merged.digest, tuned.digest),
    }
    assert {edge.child for edge in registry.lineage("base").children(base.digest)} == {
        tuned.digest,
        merged.digest,
        sibling.digest,
    }


def test_a_lineage_calls_its_root_as_it_was_asked(registry: Registry) -> None:
    """Of two versions with one digest, the root is the one asked for, any other node the older; both say the other."""
    one = publish(registry, "one", {"a": b"1"})
    publish(registry, "two", {"a": b"1"})
    child = publish(registry, "child", {"a": b"2"}, parents=[one])
    assert [registry.lineage(ref).nodes[one.digest].ref for ref in ("one", "two", "child")] == [
        "one:1",
        "two:1",
        "one:1",
    ]
    assert [registry.lineage(ref).also for ref in ("one", "two:1", child.digest)] == [
        {one.digest: ("two:1",)},
        {one.digest: ("one:1",)},
        {one.digest: ("two:1",)},
    ]
