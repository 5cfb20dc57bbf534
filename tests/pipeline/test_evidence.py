"""Evidence: what runs, certificates, evaluations and imports record is what docs/registry.md describes."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from ftreg import bisect, evaluate, merge, replay
from ftreg.core.types import Version
from ftreg.registry import Registry

PAGE = (Path(__file__).parents[2] / "docs" / "registry.md").read_text(encoding="utf-8")
SECTIONS = dict(re.findall(r"^### `(\w+)`: .*?\n(.*?)(?=^##)", PAGE, flags=re.DOTALL | re.MULTILINE))


def examples(kind: str) -> list[dict[str, Any]]:
    """Return the example bodies in the page's section about a type of evidence."""
    (block,) = re.findall(r"```json\n(.*?)```", SECTIONS[kind], flags=re.DOTALL)
    return [json.loads(line) for line in block.splitlines()]


@pytest.fixture(scope="module")
def bodies(registry: Registry, adapter: Version) -> dict[str, dict[str, Any]]:
    """Return the body of one record of each type, from a trained, merged and evaluated adapter."""
    merged = merge(adapter.ref, name="evidence", registry=registry)
    evaluate(merged.ref, registry=registry)
    replay(merged.ref, registry=registry)
    bisect(merged.ref, limit=2, registry=registry)
    refs = [merged.ref, adapter.ref, adapter.manifest.parent("dataset")]
    return {record.type: dict(record.body) for ref in refs for record in registry.evidence(ref)}


@pytest.mark.parametrize("kind", ["run", "certificate", "evaluation", "replay", "bisection"])
def test_the_bodies_on_the_page_are_those_that_are_written(kind: str, bodies: dict[str, dict[str, Any]]) -> None:
    """The example of each type has the keys, and the inner keys, of a real record."""
    (example,) = examples(kind)
    assert example.keys() == bodies[kind].keys()
    for key, value in example.items():
        if isinstance(value, dict):
            assert value.keys() == bodies[kind][key].keys()


def test_imports_are_described(bodies: dict[str, dict[str, Any]]) -> None:
    """An imported dataset records its file as the page says."""
    assert bodies["import"].keys() in [example.keys() for example in examples("import")]
