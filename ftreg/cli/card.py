"""The card of a version as lines of text: everything that ``ftreg models show`` prints."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from ftreg.cli.session import human_size
from ftreg.core.manifest import Json

_LABEL = 12


def lines_of(facts: Mapping[str, Any]) -> Iterator[str]:
    """Yield the lines of the card whose facts ``ftreg.api.versions.card`` returns."""
    producer = facts["producer"]
    aliases = " ".join(f"@{alias}" for alias in facts["aliases"])
    yield f"{facts['ref']}  {aliases}".rstrip()
    if facts["also"]:
        yield _line("also", ", ".join(facts["also"]))
    yield _line("digest", facts["digest"])
    yield _line("kind", f"{facts['kind']} for {facts['task']}")
    package = f"{producer['distribution']} {producer['version']}".rstrip()  # an import's version is left empty
    yield _line("made by", f"{producer['type']} {producer['name']} ({package})")
    yield _line("created", facts["created"])
    given_up = "rebuildable: its files were given up, and are made again when it is opened"
    yield _line("folder", facts["folder"] or (f"DAMAGED: {facts['damage']}" if facts["damage"] else given_up))
    for key, value in facts["tags"].items():
        yield _line("tag", f"{key}={value}")
    for parent in facts["parents"]:
        yield _line(parent["role"], f"{parent['ref'] or 'MISSING'}  {parent['digest'][:15]}")
    if facts["capabilities"]:
        yield _line("can be", ", ".join(facts["capabilities"]))
    yield from _section("configuration", producer["config"])
    yield from _section("facts", facts["facts"])
    yield from _section("packages", facts["environment"])
    yield ""
    yield f"files ({human_size(facts['size'])})"
    for entry in facts["files"]:
        yield f"  {human_size(entry['size']):>9}  {entry['path']}"
    for record in facts["evidence"]:
        other = "" if record["ref"] == facts["ref"] else f"  recorded for {record['ref']}"
        yield from _section(f"{record['type']}  {record['at']}{other}", record["body"])
        for path in record["files"].values():
            yield f"  {path}"


def _section(title: str, values: Mapping[str, Json]) -> Iterator[str]:
    rows = list(_flat(values))
    if rows:
        yield ""
        yield title
        width = max(len(key) for key, _ in rows)
        for key, value in rows:
            yield f"  {key:<{width}}  {value}"


def _flat(values: Mapping[str, Json], prefix: str = "") -> Iterator[tuple[str, Json]]:
    """Yield the values of nested mappings under dotted keys; of a long list, such as a curve, its length."""
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        elif isinstance(value, list) and (len(value) > 8 or any(isinstance(item, dict | list) for item in value)):
            yield f"{prefix}{key}", f"({len(value)} entries; --json shows them)"
        elif isinstance(value, list):
            yield f"{prefix}{key}", ", ".join(str(item) for item in value)
        else:
            yield f"{prefix}{key}", json.dumps(value) if value is None or isinstance(value, bool) else value


def _line(label: str, text: str) -> str:
    return f"  {label:<{_LABEL}}{text}"
