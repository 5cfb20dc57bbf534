"""Helpers of the registry's tests: publish a few bytes, and look into blobs and catalog."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ftreg.core.manifest import Json, Parent, Producer
from ftreg.core.types import Version
from ftreg.registry import Draft, Registry

PRODUCER = Producer("method", "lora", "methods", "ftreg", "0.1.0", {"rank": 8})
FILES = {"config.json": b"{}", "weights/model.bin": b"\x00\x01" * 500}


def publish(
    registry: Registry,
    name: str = "bot",
    files: Mapping[str, bytes] = FILES,
    *,
    parents: Sequence[Version] = (),
    report: Mapping[str, bytes] | None = None,
    evidence: Sequence[tuple[str, Mapping[str, Json]]] = (),
    tags: Mapping[str, str] | None = None,
    producer: Producer = PRODUCER,
    facts: Mapping[str, Json] | None = None,
) -> Version:
    """Publish ``files`` as a version of ``name`` whose parents all have the role ``base``."""
    with drafted(
        registry, files, parents=parents, report=report, evidence=evidence, producer=producer, facts=facts
    ) as draft:
        return registry.publish(name, draft, tags=tags)


@contextmanager
def drafted(
    registry: Registry,
    files: Mapping[str, bytes] = FILES,
    *,
    parents: Sequence[Version] = (),
    report: Mapping[str, bytes] | None = None,
    evidence: Sequence[tuple[str, Mapping[str, Json]]] = (),
    producer: Producer = PRODUCER,
    facts: Mapping[str, Json] | None = None,
) -> Iterator[Draft]:
    """Write ``files`` into staging, and yield the draft that ``publish`` publishes."""
    with registry.staging() as staging:
        write(staging.files, files)
        write(staging.report, report or {})
        yield Draft(
            folder=staging.files,
            report=staging.report,
            kind="checkpoint",
            parents=[Parent("base", parent.digest) for parent in parents],
            producer=producer,
            environment={"torch": "2.13.0"},
            facts=facts or {},
            evidence=evidence,
        )


def restore(registry: Registry, ref: str, files: Mapping[str, bytes] = FILES) -> None:
    """Put back the files of a version that was evicted."""
    with drafted(registry, files) as draft:
        registry.restore(ref, registry.prepare(draft))


def write(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write files, given by relative path, into a folder."""
    for path, data in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)


def read(folder: Path) -> dict[str, bytes]:
    """Read all files of a folder, by relative path."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def blobs(registry: Registry) -> set[str]:
    """Return the hashes of all stored blobs."""
    return {path.name for path in (registry.home / "blobs").rglob("*") if path.is_file()}


def blob_of(registry: Registry, version: Version, path: str) -> Path:
    """Return where the content of a version's file is stored."""
    blake3 = next(entry.blake3 for entry in version.manifest.files if entry.path == path)
    return registry.home / "blobs" / "b3" / blake3[:2] / blake3


def reachable(registry: Registry, versions: Iterable[Version]) -> set[str]:
    """Return the hashes of the files of ``versions`` and of all their ancestors."""
    hashes: set[str] = set()
    for version in versions:
        lineage = registry.lineage(version.digest)
        pending, seen = [version.digest], set[str]()
        while pending:
            digest = pending.pop()
            if digest not in seen:
                seen.add(digest)
                hashes |= {entry.blake3 for entry in lineage.nodes[digest].manifest.files}
                pending += [edge.parent for edge in lineage.parents(digest)]
    return hashes


def dump(home: Path) -> dict[str, list[tuple[Any, ...]]]:
    """Read all tables of the catalog, without the order of their rows."""
    tables = {
        "events": "*", "models": "*", "manifests": "*", "edges": "*", "aliases": "*", "tags": "*", "evidence": "*",
        "evicted": "*",
        "versions": "name, number, digest, created",
    }  # fmt: skip
    with sqlite3.connect(home / "registry.db") as database:
        rows = {
            table: sorted(database.execute(f"SELECT {what} FROM {table}"), key=repr) for table, what in tables.items()
        }
    database.close()
    return rows
