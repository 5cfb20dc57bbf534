"""Properties: round trips for any input, and a registry that behaves like a simple model of one."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path

import pytest
from blake3 import blake3
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, rule

from ftreg.core.errors import InputError, UnknownName
from ftreg.core.manifest import FileEntry, Manifest, Parent, Producer, canonical_json
from ftreg.core.names import Ref, check_name, check_relative_path, parse_ref
from ftreg.core.types import Version
from ftreg.registry import Registry
from tests.registry.kit import blobs, dump, publish, read, restore

KEYS = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | KEYS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=8,
)
MAPPINGS = st.dictionaries(KEYS, JSON, max_size=3)
HASHES = st.binary(max_size=4).map(lambda data: blake3(data).hexdigest())
PARTS = st.text("abcXYZ019_-. äß漢", min_size=1, max_size=6).filter(lambda part: part not in (".", ".."))
PATHS = st.lists(PARTS, min_size=1, max_size=3).map("/".join)
NAMES = st.from_regex(r"[a-z0-9]([a-z0-9._-]{0,9}[a-z0-9])?", fullmatch=True)


def is_name(text: str) -> bool:
    """Return True if ``check_name`` accepts ``text``."""
    try:
        return check_name(text) == text
    except InputError:
        return False


ALIASES = NAMES.filter(is_name).filter(lambda text: not text.isdigit())


def is_file_tree(files: dict[str, bytes]) -> bool:
    """Return True if a file system can hold all the paths: no path is also a folder, and none differ only by case."""
    folded = [path.casefold() for path in files]
    folders = {"/".join(path.split("/")[:depth]) for path in folded for depth in range(1, path.count("/") + 1)}
    return len(set(folded)) == len(folded) and not folders & set(folded)


TREES = st.dictionaries(PATHS, st.binary(max_size=64), min_size=1, max_size=5).filter(is_file_tree)
MANIFESTS = st.builds(
    Manifest,
    kind=st.sampled_from(["checkpoint", "adapter"]),
    task=KEYS,
    files=st.lists(st.builds(FileEntry, PATHS, st.integers(0, 2**60), HASHES), max_size=3).map(tuple),
    parents=st.lists(st.builds(Parent, KEYS, HASHES.map("b3:{}".format)), max_size=3).map(tuple),
    producer=st.builds(Producer, KEYS, KEYS, KEYS, KEYS, KEYS, MAPPINGS),
    environment=st.dictionaries(KEYS, KEYS, max_size=3),
    facts=MAPPINGS,
)


@given(MAPPINGS)
def test_canonical_json_is_read_back_and_does_not_depend_on_order(value: dict[str, object]) -> None:
    """Canonical JSON is read back unchanged, and equal values are written alike, whatever the order of their keys."""
    data = canonical_json(value)
    assert json.loads(data) == value
    assert canonical_json(dict(reversed(value.items()))) == data


@given(MANIFESTS)
def test_a_manifest_is_read_back(manifest: Manifest) -> None:
    """A manifest is read back unchanged, and written again it is the same bytes."""
    assert Manifest.from_bytes(manifest.to_bytes()) == manifest
    assert Manifest.from_bytes(manifest.to_bytes()).to_bytes() == manifest.to_bytes()


@given(st.data())
def test_a_reference_is_read_back(data: st.DataObject) -> None:
    """Every form of reference is parsed back from what it prints."""
    name = data.draw(NAMES.filter(is_name))
    ref = data.draw(
        st.one_of(
            st.just(Ref(name=name)),
            st.integers(1, 999_999_999).map(lambda number: Ref(name=name, number=number)),
            ALIASES.map(lambda alias: Ref(name=name, alias=alias)),
            st.from_regex(r"b3:[0-9a-f]{4,64}", fullmatch=True).map(lambda prefix: Ref(digest_prefix=prefix)),
        )
    )
    assert parse_ref(str(ref)) == ref


@given(st.text(max_size=20))
def test_a_path_that_passes_stays_inside(path: str) -> None:
    """A path that the validator accepts is below the folder that it is joined to."""
    try:
        check_relative_path(path)
    except InputError:
        return
    joined = Path("/somewhere") / path
    assert Path("/somewhere") in joined.parents
    assert ".." not in joined.parts


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Registry:
    """Open one registry for many examples."""
    return Registry(tmp_path_factory.mktemp("shared") / "home")


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(files=TREES, facts=MAPPINGS, body=MAPPINGS, report=TREES)
def test_any_files_come_back_byte_for_byte(
    shared: Registry,
    files: dict[str, bytes],
    facts: dict[str, object],
    body: dict[str, object],
    report: dict[str, bytes],
) -> None:
    """Any files, facts, evidence and report come back as they were published."""
    before = shared.count()
    version = publish(shared, "bot", files, facts=facts, evidence=[("run", body)], report=report)
    assert read(shared.source(version.ref).path) == files
    assert shared.get(version.ref).manifest.facts == facts
    if shared.count() > before:
        (record,) = shared.evidence(version.digest)
        assert record.body == body
        assert {name: path.read_bytes() for name, path in record.files.items()} == report


class Machine(RuleBasedStateMachine):
    """Publish, tag, alias, delete and collect in any order, compared with a model in dictionaries."""

    published = Bundle("published")

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.registry = Registry(self.folder / "home")
        self.live: dict[str, Version] = {}
        self.tags: dict[str, dict[str, str]] = {}
        self.aliases: dict[tuple[str, str], str] = {}
        self.last: dict[str, int] = {}
        self.bytes: dict[str, dict[str, bytes]] = {}
        self.evicted: set[str] = set()

    @initialize(target=published)
    def first(self) -> str:
        return self._publish("one", b"base", None)

    @rule(
        target=published,
        name=st.sampled_from(["one", "two"]),
        content=st.binary(min_size=1, max_size=1),
        parent=st.none() | published,
    )
    def publish(self, name: str, content: bytes, parent: str | None) -> str:
        return self._publish(name, content, self.live.get(parent or ""))

    def _publish(self, name: str, content: bytes, parent: Version | None) -> str:
        files = {"own.bin": content, "shared.bin": b"shared"}
        version = publish(self.registry, name, files, parents=[parent] if parent else [])
        self.evicted.discard(version.digest)
        known = [ref for ref, other in self.live.items() if (other.name, other.digest) == (name, version.digest)]
        if known:
            assert version.ref == known[0]
        else:
            self.last[name] = self.last.get(name, 0) + 1
            assert version.number == self.last[name]
            self.live[version.ref] = version
            self.tags[version.ref] = {}
            self.bytes[version.digest] = files
        return version.ref

    @rule(ref=published, key=st.sampled_from(["a", "b"]), value=st.sampled_from(["1", "2"]))
    def tag(self, ref: str, key: str, value: str) -> None:
        if ref in self.live:
            self.registry.tag(ref, key, value)
            self.tags[ref][key] = value
        else:
            with pytest.raises(UnknownName):
                self.registry.tag(ref, key, value)

    @rule(ref=published, key=st.sampled_from(["a", "b"]))
    def untag(self, ref: str, key: str) -> None:
        if key in self.tags.get(ref, {}):
            self.registry.untag(ref, key)
            del self.tags[ref][key]
        else:
            with pytest.raises(UnknownName):
                self.registry.untag(ref, key)

    @rule(ref=published, alias=st.sampled_from(["champion", "canary"]))
    def set_alias(self, ref: str, alias: str) -> None:
        if ref in self.live:
            self.registry.set_alias(ref, alias)
            self.aliases[self.live[ref].name, alias] = ref

    @rule(name=st.sampled_from(["one", "two"]), alias=st.sampled_from(["champion", "canary"]))
    def remove_alias(self, name: str, alias: str) -> None:
        if (name, alias) in self.aliases:
            self.registry.remove_alias(name, alias)
            del self.aliases[name, alias]
        else:
            with pytest.raises(UnknownName):
                self.registry.remove_alias(name, alias)

    @rule(ref=published, force=st.booleans())
    def delete(self, ref: str, force: bool) -> None:
        if ref not in self.live:
            return
        digest = self.live[ref].digest
        is_parent = any(edge.parent == digest for edge in self.registry.lineage(digest).edges)
        if ref in self.aliases.values() or (is_parent and not force):
            with pytest.raises(InputError):
                self.registry.delete(ref, force=force)
        else:
            self.registry.delete(ref, force=force)
            del self.live[ref], self.tags[ref]

    @rule(ref=published)
    def add_evidence(self, ref: str) -> None:
        if ref in self.live:
            self.registry.add_evidence(ref, "evaluation", {"loss": 1.0})

    @rule(ref=published)
    def evict(self, ref: str) -> None:
        if ref in self.live:
            self.registry.evict(ref)
            self.evicted.add(self.live[ref].digest)

    @rule(ref=published)
    def restore(self, ref: str) -> None:
        if ref in self.live:
            digest = self.live[ref].digest
            restore(self.registry, ref, self.bytes[digest])
            self.evicted.discard(digest)

    @rule()
    def collect(self) -> None:
        self.registry.gc(grace=0)
        needed: set[str] = set()
        pending = [version.digest for version in self.live.values()]
        while pending:
            version = self.registry.get(pending.pop())
            if version.digest not in self.evicted:
                needed |= {entry.blake3 for entry in version.manifest.files}
            pending += [parent.digest for parent in version.manifest.parents]
        assert blobs(self.registry) == needed

    @invariant()
    def the_registry_says_what_the_model_says(self) -> None:
        found = {version.ref: version for version in self.registry.list(limit=None)}
        assert {ref: version.digest for ref, version in found.items()} == {
            ref: version.digest for ref, version in self.live.items()
        }
        assert {ref: version.tags for ref, version in found.items()} == self.tags
        pointed = {(v.name, alias): v.ref for v in found.values() for alias in v.aliases}
        assert pointed == self.aliases

    def teardown(self) -> None:
        for ref, version in self.live.items():
            if version.digest in self.evicted:
                assert self.registry.get(ref).state == "rebuildable"
            else:
                assert read(self.registry.source(ref).path) == self.bytes[version.digest]
        assert self.registry.verify().ok
        before = dump(self.registry.home)
        self.registry.close()
        Registry.rebuild(self.registry.home)
        assert dump(self.registry.home) == before
        shutil.rmtree(self.folder)


TestMachine = Machine.TestCase
TestMachine.settings = settings(max_examples=15, stateful_step_count=20, deadline=None)
