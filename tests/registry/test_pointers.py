"""Aliases, tags, evidence, the event log, and the gates that guard them."""

from __future__ import annotations

import sqlite3
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from ftreg.core.errors import FtregError, InputError, UnknownName
from ftreg.core.hookspecs import hookimpl
from ftreg.core.host import PluginHost
from ftreg.core.types import Problem, Version
from ftreg.registry import Registry
from tests.registry.kit import publish, write


def test_an_alias_moves_and_is_removed(registry: Registry) -> None:
    """An alias belongs to a name, points to one version, moves, and is removed."""
    for number in range(2):
        publish(registry, "bot", {"a": str(number).encode()})
    registry.set_alias("bot:1", "champion")
    registry.set_alias("bot", "champion")
    assert registry.get("bot:1").aliases == ()
    assert registry.get("bot@champion").ref == "bot:2"
    registry.remove_alias("bot", "champion")
    with pytest.raises(UnknownName):
        registry.get("bot@champion")
    with pytest.raises(UnknownName):
        registry.remove_alias("bot", "champion")


def test_setting_an_alias_where_it_is_says_nothing_new(registry: Registry) -> None:
    """Setting an alias to the version that it points to already records no event."""
    publish(registry)
    registry.set_alias("bot:1", "champion")
    events = len(registry.events())
    registry.set_alias("bot:1", "champion")
    assert len(registry.events()) == events


def test_the_log_says_what_was_champion_when(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    """``alias_at`` finds the version of an alias before, between and after its moves."""
    start = datetime.fromisoformat("2026-03-01T00:00:00+00:00")
    day = iter(range(100))

    def tomorrow() -> str:
        return (start + timedelta(days=next(day))).isoformat(timespec="milliseconds")

    monkeypatch.setattr("ftreg.registry.records.timestamp", tomorrow)
    one = publish(registry, "bot", {"a": b"1"})  # asks for the time twice
    publish(registry, "bot", {"a": b"2"})
    moves = []
    for ref in ("bot:1", "bot:2", "bot:1"):
        registry.set_alias(ref, "champion")
        moves.append(datetime.fromisoformat(registry.events(limit=1)[0].at))
    registry.remove_alias("bot", "champion")
    hour = timedelta(hours=1)
    found = [registry.alias_at("bot", "champion", move + hour) for move in moves]
    assert [event.number for event in found if event] == [1, 2, 1]
    assert registry.alias_at("bot", "champion", moves[0] - hour) is None
    assert registry.alias_at("bot", "champion", moves[-1] + timedelta(days=1)) is None
    assert registry.alias_at("bot", "other", moves[0]) is None
    last = found[-1]
    assert last is not None
    assert last.digest == one.digest


def test_events_say_who_where_and_what(registry: Registry) -> None:
    """Events of a version, of a name and of the whole registry come newest first, with time, user and host."""
    publish(registry, "bot", {"a": b"1"}, tags={"k": "v"})
    publish(registry, "bot", {"a": b"2"}, evidence=[("certificate", {"kl": 0.0})])
    publish(registry, "other", {"a": b"3"})
    registry.tag("bot:1", "k", "w")
    registry.untag("bot:1", "k")
    registry.delete("bot:1")
    assert [event.action for event in registry.events("bot:1")] == [
        "deleted",
        "untagged",
        "tagged",
        "tagged",
        "published",
    ]
    assert [event.action for event in registry.events("bot:2")] == ["evidence", "published"]
    assert len(registry.events("bot")) == 7
    assert len(registry.events()) == 8
    assert len(registry.events(limit=3)) == 3
    event = registry.events()[0]
    assert event.user
    assert event.host
    assert datetime.fromisoformat(event.at).utcoffset() == timedelta(0)
    with pytest.raises(UnknownName):
        registry.events("bat")
    with pytest.raises(UnknownName):
        registry.events("bot:9")


@pytest.mark.parametrize("statement", ["UPDATE events SET user = 'x'", "DELETE FROM events"])
def test_the_event_log_cannot_be_changed(registry: Registry, statement: str) -> None:
    """SQL that changes or deletes events is refused by the database."""
    publish(registry)
    with (
        sqlite3.connect(registry.home / "registry.db") as database,
        pytest.raises(sqlite3.IntegrityError, match="never"),
    ):
        database.execute(statement)
    database.close()


def test_evidence_is_kept_in_order_with_its_files(registry: Registry, tmp_path: Path) -> None:
    """Evidence comes back in order with its files; files from other folders are copied."""
    publish(registry, report={"metrics.json": b"{}"}, evidence=[("certificate", {"kl": 0.1})])
    write(tmp_path / "answers", {"answers.jsonl": b"{}\n"})
    registry.add_evidence("bot", "evaluation", {"loss": 2.0}, files=tmp_path / "answers")
    records = registry.evidence("bot:1")
    assert [record.type for record in records] == ["run", "certificate", "evaluation"]
    assert records[1].body == {"kl": 0.1}
    assert records[0].files["metrics.json"].name == "metrics.json"
    assert records[2].files["answers.jsonl"].read_bytes() == b"{}\n"
    assert (tmp_path / "answers" / "answers.jsonl").exists()
    registry.gc(grace=0)
    assert registry.evidence("bot:1") == records
    assert registry.verify().ok


def test_evidence_is_of_the_digest(registry: Registry) -> None:
    """Evidence belongs to the digest, so every version with that digest has it."""
    publish(registry, "one")
    publish(registry, "two")
    registry.add_evidence("one:1", "evaluation", {"loss": 1.0})
    assert [(record.body, record.ref) for record in registry.evidence("two:1")] == [({"loss": 1.0}, "one:1")]


def test_a_digest_of_two_names_cannot_be_tagged(registry: Registry) -> None:
    """A digest that two names share must be named by one of them to be tagged."""
    version = publish(registry, "one")
    publish(registry, "two")
    with pytest.raises(InputError, match="two:1 and one:1"):
        registry.tag(version.digest, "k", "v")


def test_an_event_of_a_shared_digest_names_the_version_that_was_meant(registry: Registry) -> None:
    """What was done to one of two versions with one digest is in the log of that version, evidence in both logs."""
    publish(registry, "one", evidence=[("run", {"seconds": 1})])
    publish(registry, "two", evidence=[("run", {"seconds": 2})])
    registry.tag("one:1", "k", "v")
    registry.add_evidence("two:1", "evaluation", {})
    registry.delete("one:1")
    logs = {name: [(event.action, event.ref) for event in registry.events(name)] for name in ("one", "two:1")}
    shared = [("evidence", "two:1"), ("evidence", "two:1"), ("evidence", "one:1")]
    assert [entry for entry in logs["one"] if entry[0] == "evidence"] == shared
    assert [entry for entry in logs["one"] if entry[0] != "evidence"] == [
        ("deleted", "one:1"),
        ("tagged", "one:1"),
        ("published", "one:1"),
    ]
    assert [entry for entry in logs["two:1"] if entry[0] == "evidence"] == shared
    assert [entry for entry in logs["two:1"] if entry[0] != "evidence"] == [("published", "two:1")]


def test_a_digest_keeps_its_reference(registry: Registry) -> None:
    """A digest is called by its oldest version, by one of a given name if asked, and also after it was collected."""
    digest = publish(registry, "one").digest
    publish(registry, "two")
    assert registry.ref_of(digest) == "one:1"
    assert registry.ref_of(digest, name="two") == "two:1"
    assert registry.ref_of(digest, name="three") == "one:1"
    assert [version.ref for version in registry.summaries(digest=digest)] == ["two:1", "one:1"]
    registry.delete("one:1")
    assert registry.ref_of(digest) == "two:1"
    assert registry.ref_of(digest, name="one") == "one:1"
    registry.delete("two:1")
    registry.gc(grace=0)
    assert registry.ref_of(digest) == "two:1"
    assert registry.ref_of("b3:" + "0" * 64) is None


class Gates:
    """A plugin that refuses untagged versions and champions without evaluation, and records what it observes."""

    def __init__(self) -> None:
        self.seen: list[object] = []

    @hookimpl
    def ftreg_check_version(self, version: Version) -> list[Problem]:
        self.seen.append(("check", version.ref, dict(version.tags)))
        return [] if "license" in version.tags else [Problem("no licence tag", hint="add license=...")]

    @hookimpl
    def ftreg_check_promotion(self, version: Version, alias: str, evidence: list[dict[str, object]]) -> list[Problem]:
        if alias != "champion" or any(record["type"] == "evaluation" for record in evidence):
            return []
        return [Problem(f"{version.ref} was never evaluated")]

    @hookimpl
    def ftreg_version_created(self, version: Version) -> None:
        self.seen.append(("created", version.ref))

    @hookimpl
    def ftreg_alias_moved(self, name: str, alias: str, old: str | None, new: str | None) -> None:
        self.seen.append((name, alias, old, new))


@pytest.fixture
def gates() -> Gates:
    """Create the plugin."""
    return Gates()


@pytest.fixture
def gated(tmp_path: Path, gates: Gates) -> Registry:
    """Create a registry whose only plugin is ``gates``."""
    host = PluginHost(only=())
    host.register(gates)
    return Registry(tmp_path / "home", host=host)


def test_a_gate_keeps_a_version_out(gated: Registry, gates: Gates) -> None:
    """If a gate refuses a version, nothing is published, and observers are not called."""
    with pytest.raises(FtregError, match="no licence tag") as caught:
        publish(gated)
    assert "add license" in str(caught.value)
    assert gated.count() == 0
    assert [event.action for event in gated.events()] == ["gate_enlisted"]
    assert gates.seen == [("check", "bot:0", {})]
    version = publish(gated, tags={"license": "apache-2.0"})
    assert gates.seen[-1] == ("created", "bot:1")
    publish(gated, tags={"license": "apache-2.0"})
    assert gates.seen[-1] == ("created", version.ref)


def test_a_gate_keeps_an_alias_from_moving(gated: Registry, gates: Gates) -> None:
    """An alias moves once the evidence that the gate wants is there, and observers are told."""
    version = publish(gated, tags={"license": "mit"})
    with pytest.raises(FtregError, match="never evaluated"):
        gated.set_alias("bot:1", "champion")
    assert gated.get("bot").aliases == ()
    gated.add_evidence("bot", "evaluation", {})
    gated.set_alias("bot:1", "champion")
    gated.remove_alias("bot", "champion")
    assert gates.seen[-2:] == [("bot", "champion", None, version.digest), ("bot", "champion", version.digest, None)]


def test_observers_that_raise_are_ignored(tmp_path: Path) -> None:
    """An observer that raises does not undo the publication."""

    class Broken:
        @hookimpl
        def ftreg_version_created(self, version: Version) -> None:
            raise RuntimeError("boom")

    host = PluginHost(only=())
    host.register(Broken())
    with Registry(tmp_path / "home", host=host) as registry:
        assert publish(registry).ref == "bot:1"
