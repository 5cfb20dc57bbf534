"""What the registry takes and gives: drafts, events, evidence, lineage, and the reports of its upkeep."""

from __future__ import annotations

import getpass
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from pathlib import Path

from ftreg.core.manifest import Json, Parent, Producer
from ftreg.core.requirements import Requirement
from ftreg.core.types import TEXT_GENERATION, Version


@dataclass(frozen=True, kw_only=True)
class Draft:
    """A version before it is published.

    Attributes:
        folder: Its files: the ``files`` of a staging folder. They are moved into the registry, not copied.
        kind: What the files are.
        producer: What made them.
        task: What the model is for.
        parents: What it was made from; each must be in the registry.
        environment: Versions of the distributions that made it; None for one that was not installed.
        requires: Distributions that loading it needs, beyond those of the engine that loads it.
        capabilities: What can be done with it.
        facts: What can be said of the result; part of its identity, so no times and no paths.
        report: Files about the run: the ``report`` of the staging folder. Kept with the evidence of type ``run``.
        evidence: ``(type, body)`` of records to attach.
    """

    folder: Path
    kind: str
    producer: Producer
    task: str = TEXT_GENERATION
    parents: Sequence[Parent] = ()
    environment: Mapping[str, str | None] = field(default_factory=dict)
    requires: Sequence[Requirement] = ()
    capabilities: Iterable[str] = ()
    facts: Mapping[str, Json] = field(default_factory=dict)
    report: Path | None = None
    evidence: Sequence[tuple[str, Mapping[str, Json]]] = ()


@dataclass(frozen=True)
class Summary:
    """A version as the catalog alone knows it, without its manifest; what lists are made of.

    Attributes:
        producer: ``type name`` of what made it, such as ``method lora``.
    """

    name: str
    number: int
    digest: str
    kind: str
    size: int
    created: str
    producer: str
    aliases: tuple[str, ...]
    tags: Mapping[str, str]

    @property
    def ref(self) -> str:
        """``name:number``."""
        return f"{self.name}:{self.number}"


@dataclass(frozen=True)
class Event:
    """A line of the event log: who did what, when and where. The log is never changed, only added to.

    The catalog is what follows from the log and the manifests, so replaying both rebuilds it.

    Attributes:
        id: Its place in the log, from 1; 0 before it is written.
        at: When, in UTC, ISO 8601.
        user: Who, as the system knows them.
        host: On which machine.
        action: ``published``, ``alias_set``, ``alias_removed``, ``tagged``, ``untagged``, ``evidence``, ``deleted``,
            ``collected`` (its bytes were freed), ``gate_enlisted`` or ``gate_released``.
        digest: Of the version it is about; None for gates, which are about the registry.
        name: Of the version it is about; None for evidence and collection, which are about a digest, and for gates.
        number: Likewise.
        detail: What else there is to say: ``alias``, ``old``, ``key``, ``value``, ``type``, ``body``, ``files``,
            ``plugin``, ``distribution``, ``hook``.
    """

    id: int
    at: str
    user: str
    host: str
    action: str
    digest: str | None = None
    name: str | None = None
    number: int | None = None
    detail: Mapping[str, Json] = field(default_factory=dict)

    @classmethod
    def now(
        cls, action: str, digest: str | None = None, name: str | None = None, number: int | None = None, **detail: Json
    ) -> Event:
        """An event of this moment, by this process's user on this machine."""
        return cls(0, timestamp(), _user(), os.uname().nodename, action, digest, name, number, detail)


@dataclass(frozen=True)
class Gate:
    """A plugin that has guarded the registry: what it is asked by ``hook`` needs it to be loaded."""

    plugin: str
    distribution: str
    hook: str


@dataclass(frozen=True)
class EvidenceRecord:
    """Something that was found out about a digest; never changed, only added to.

    Attributes:
        type: ``run``, ``certificate``, ``evaluation``, or a plugin's own.
        at: When, in UTC, ISO 8601.
        body: What was found.
        files: The files that go with it, by their name: where each can be read.
    """

    type: str
    at: str
    body: Mapping[str, Json]
    files: Mapping[str, Path] = field(default_factory=dict)


@dataclass(frozen=True)
class Edge:
    """``child`` was made from ``parent``; both are digests.

    Attributes:
        position: Place of the parent among the child's, from 0.
        role: The parent's role.
        weight: The parent's weight, if it was an input of a step.
    """

    child: str
    position: int
    role: str
    parent: str
    weight: float | None = None


@dataclass(frozen=True)
class Lineage:
    """What a version was made from, and what was made from it, over all generations.

    Attributes:
        root: Digest of the version that was asked about.
        nodes: The versions by digest. A digest that several versions share stands under the newest one's name.
        edges: Who was made from whom.
        deleted: Digests of nodes whose version was deleted; they are kept because others were made from them.
    """

    root: str
    nodes: Mapping[str, Version]
    edges: tuple[Edge, ...]
    deleted: frozenset[str] = frozenset()

    def __repr__(self) -> str:
        root = self.nodes.get(self.root)
        name = root.ref if root else self.root[:15]
        return f"<Lineage of {name}: {len(self.nodes)} versions, {len(self.edges)} edges>"

    def parents(self, digest: str) -> list[Edge]:
        """The edges to what ``digest`` was made from."""
        return [edge for edge in self.edges if edge.child == digest]

    def children(self, digest: str) -> list[Edge]:
        """The edges to what was made from ``digest``."""
        return [edge for edge in self.edges if edge.parent == digest]


@dataclass(frozen=True)
class Damage:
    """Something in the registry that is not as it should be: where, what is wrong, and what to do."""

    where: str
    problem: str
    hint: str


@dataclass(frozen=True)
class VerifyReport:
    """What ``verify`` looked at and found.

    Attributes:
        full: Whether all bytes were hashed; else sizes and seals were looked at.
        versions: Manifests checked.
        files: Distinct files checked.
        size: Their bytes.
        damages: What is wrong; empty where all is well.
    """

    full: bool
    versions: int
    files: int
    size: int
    damages: tuple[Damage, ...]

    @property
    def ok(self) -> bool:
        """Nothing is damaged."""
        return not self.damages


@dataclass(frozen=True)
class GcReport:
    """What ``gc`` freed, or would free.

    Attributes:
        dry_run: Nothing was changed.
        manifests: Manifests that nothing reaches.
        blobs: Files that no kept manifest or evidence lists.
        staging: Left-over folders of processes that ended.
        size: Bytes of the blobs and the staging folders.
        waiting: Bytes of unreferenced blobs that are younger than the grace period, and stay.
    """

    dry_run: bool
    manifests: int
    blobs: int
    staging: int
    size: int
    waiting: int


@dataclass(frozen=True)
class RebuildReport:
    """What ``rebuild`` made of the manifests and the event log.

    Attributes:
        events: Events replayed.
        versions: Versions in the new catalog.
        lost: ``name:number`` of versions whose manifest is missing or damaged; their numbers stay taken.
    """

    events: int
    versions: int
    lost: tuple[str, ...]


def timestamp() -> str:
    """This moment in UTC, ISO 8601 with milliseconds."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


@cache
def _user() -> str:
    """Who runs this process; its user id where that has no name, as in many containers."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"uid:{os.getuid()}"
