"""Versions: their cards, their lineage, their kinds."""

from __future__ import annotations

from dataclasses import asdict

from ftreg.api.opening import opened
from ftreg.core.errors import CorruptRegistry, UnknownName
from ftreg.core.manifest import Json
from ftreg.core.specs import EngineSpec, MethodSpec, StepSpec
from ftreg.core.types import ADAPTER, CHECKPOINT, DATASET, ONNX
from ftreg.registry import Lineage, Registry


def card(ref: str, *, registry: Registry | None = None) -> dict[str, Json]:
    """Return everything about the version ``ref`` as JSON: how it was made, from what, its files and its evidence.

    ``folder`` is where its files can be read; None if they were given up (``state`` is ``rebuildable``), or, with the
    reason under ``damage``, if they are damaged.

    Raises:
        UnknownName: The version does not exist.
    """
    with opened(registry, None) as context:
        return _card(context.registry, ref)


def lineage(ref: str, *, registry: Registry | None = None) -> Lineage:
    """Return what ``ref`` was made from, and what was made from it, over all generations."""
    with opened(registry, None) as context:
        return context.registry.lineage(ref)


def check_kind(kind: str, *, registry: Registry | None = None) -> str:
    """Return ``kind`` if a version can be of it; raise ``UnknownName`` if neither ftreg nor a plugin knows it."""
    with opened(registry, None) as context:
        host = context.host
        known = {CHECKPOINT, ADAPTER, ONNX, DATASET}
        known |= {spec.produces for spec in host.specs(MethodSpec)} | {spec.produces for spec in host.specs(StepSpec)}
        known |= {loaded for spec in host.specs(EngineSpec) for loaded in spec.kinds}
        if kind not in known and not context.registry.summaries(kind=kind, limit=1):
            raise UnknownName("kind", kind, known, where="kind")
    return kind


def _card(registry: Registry, ref: str) -> dict[str, Json]:
    version = registry.get(ref)
    manifest = version.manifest
    folder = damage = None
    if version.state == "here":
        try:
            folder = str(registry.source(version.digest).path)
        except CorruptRegistry as error:
            damage = str(error)
    return {
        "ref": version.ref,
        "name": version.name,
        "number": version.number,
        "also": [same.ref for same in registry.summaries(digest=version.digest, limit=None) if same.ref != version.ref],
        "digest": version.digest,
        "kind": version.kind,
        "task": manifest.task,
        "size": version.size,
        "created": version.created,
        "aliases": list(version.aliases),
        "tags": dict(version.tags),
        "state": version.state,
        "folder": folder,
        "damage": damage,
        "producer": asdict(manifest.producer),
        "parents": [asdict(parent) | {"ref": _ref(registry, parent.digest)} for parent in manifest.parents],
        "files": [asdict(entry) for entry in manifest.files],
        "facts": dict(manifest.facts),
        "capabilities": list(manifest.capabilities),
        "environment": dict(manifest.environment),
        "evidence": [
            asdict(record) | {"files": {name: str(path) for name, path in record.files.items()}}
            for record in registry.evidence(version.digest)
        ],
    }


def _ref(registry: Registry, digest: str) -> str | None:
    """The reference of a digest; None if its manifest is missing or damaged."""
    try:
        return registry.get(digest).ref
    except (UnknownName, CorruptRegistry):
        return None
