"""docs/registry.md describes the format that the code writes."""

from __future__ import annotations

import inspect
import json
import re
from dataclasses import fields
from pathlib import Path

import pytest

from ftreg.core.manifest import FileEntry, Manifest, Parent, Producer
from ftreg.core.requirements import Requirement
from ftreg.registry import Event, Registry
from ftreg.registry.blobs import digest_of
from ftreg.registry.catalog import Catalog
from tests.registry.kit import publish

PAGE = (Path(__file__).parents[2] / "docs" / "registry.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```json\n(.*?)```", PAGE, flags=re.DOTALL)


@pytest.mark.parametrize("record", [Manifest, FileEntry, Parent, Producer, Requirement, Event])
def test_every_field_is_described(record: type) -> None:
    """Each field of a manifest, of its parts, and of an event is named on the page."""
    assert [field.name for field in fields(record) if f"`{field.name}`" not in PAGE] == []


def test_the_table_of_actions_is_that_of_the_catalog() -> None:
    """The page lists exactly the actions that the catalog applies."""
    listed = re.findall(r"^\| `(\w+)` \| (?:yes )?\|", PAGE, flags=re.MULTILINE)
    assert listed == re.findall(r'case "(\w+)":', inspect.getsource(Catalog.apply))


def test_the_manifest_on_the_page_has_the_digest_on_the_page() -> None:
    """The example is a whole manifest, and its canonical form hashes to the digest that the page states."""
    digest = digest_of(Manifest.from_bytes(EXAMPLES[0].encode()).to_bytes())
    assert f"Its digest is `{digest}`." in PAGE


def test_the_events_on_the_page_are_events() -> None:
    """The example is a journal of events with all their fields."""
    events = [Event(**json.loads(line)) for line in EXAMPLES[1].splitlines()]
    assert [event.action for event in events] == ["published", "alias_set", "tagged"]


def test_everything_in_a_home_is_described(registry: Registry) -> None:
    """Each file and folder that a used registry holds is on the page."""
    publish(registry)
    registry.source("bot")
    names = {path.name for path in registry.home.iterdir()} - {"registry.db-wal", "registry.db-shm"}
    assert "events.jsonl" in names
    assert [name for name in names if not re.search(rf"^  {re.escape(name)}\b", PAGE, flags=re.MULTILINE)] == []
