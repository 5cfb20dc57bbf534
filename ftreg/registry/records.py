"""Records: the arguments and results of the registry: drafts, events, evidence, lineage and reports."""

from __future__ import annotations

import getpass
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Literal

from ftreg.core.manifest import Json, Parent, Producer
from ftreg.core.requirements import Requirement
from ftreg.core.types import TEXT_GENERATION, State, Version


@dataclass(frozen=True, kw_only=True)
class Draft:
    """A version before it is published.

    Attributes:
        folder: The folder of its files: the ``files`` of a staging folder. They are moved, not copied.
        kind: What the files are.
        producer: What made the version.
        task: What the model is for.
        parents: What it was made from; each must be in the registry.
        environment: Versions of the distributions that made it; None for one that was not installed.
        requires: Distributions that loading it needs, beyond those of the engine that loads it.
        capabilities: What can be done with it; see ``ftreg.core.capabilities``.
        facts: Properties of the result; part of its identity, so without times and paths.
        report: The folder of files about the run: the ``report`` of the staging folder. They are kept with the evidence
            of type ``run``.
        evidence: Records to attach, as ``(type, body)``.
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
    """A version as the catalog lists it, without its manifest.

    Attributes:
        producer: Type and name of what made it, such as ``method lora``.
        state: ``here``, or ``rebuildable`` if its files were given up.
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
    state: State = "here"

    @property
    def ref(self) -> str:
        """``name:number``."""
        return f"{self.name}:{self.number}"


@dataclass(frozen=True)
class Event:
    """An entry of the append-only event log: who did what, when and where.

    The catalog can be rebuilt by replaying the log with the manifests.

    Attributes:
        id: Its position in the log, from 1; 0 before it is written.
        at: The time in UTC, ISO 8601.
        user: The login name of the user who did it.
        host: The name of the machine on which it was done.
        action: ``published``, ``alias_set``, ``alias_removed``, ``tagged``, ``untagged``, ``evidence``, ``deleted``,
            ``evicted`` (its files were given up), ``restored`` (they are here again), ``collected`` (its manifest was
            freed), ``policy_set``, ``gate_enlisted`` or ``gate_released``.
        digest: The digest that it is about; None for gates, which concern the whole registry.
        name: The name of the version that it is about; for ``evidence``, which concerns the digest, of the version that
            it was recorded for. None for ``collected``, and for gates.
        number: The number of that version, or None likewise; None too for ``policy_set``, which is about the name.
        detail: Further values, which depend on the action: ``alias``, ``old``, ``key``, ``value``, ``type``, ``body``,
            ``files``, ``kept``, ``policy``, ``plugin``, ``distribution``, ``hook``. docs/registry.md lists them.
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
        """Create an event with the current time, user and machine."""
        return cls(0, timestamp(), _user(), os.uname().nodename, action, digest, name, number, detail)

    @property
    def ref(self) -> str | None:
        """``name:number`` of the version that it is about, or the name alone; None if it has no name."""
        return self.name if self.name is None or self.number is None else f"{self.name}:{self.number}"


@dataclass(frozen=True)
class Gate:
    """A plugin on record as a gate: while it is not loaded, what it decides about is refused.

    Attributes:
        plugin: The plugin's name.
        distribution: The distribution that provides it.
        hook: The hook through which it decides, such as ``ftreg_check_version``.
    """

    plugin: str
    distribution: str
    hook: str


@dataclass(frozen=True)
class EvidenceRecord:
    """Something that was found out about a digest; it is never changed or removed.

    Attributes:
        type: ``run``, ``certificate``, ``evaluation``, ``import``, or a plugin's own.
        at: The time at which it was recorded, in UTC, ISO 8601.
        ref: The version that it was recorded for, ``name:number``; all versions with the same digest share it.
        body: What was found out, as JSON; docs/registry.md describes it for each type.
        files: Where each file that belongs to it can be read, by relative path.
    """

    type: str
    at: str
    ref: str | None
    body: Mapping[str, Json]
    files: Mapping[str, Path] = field(default_factory=dict)


@dataclass(frozen=True)
class Edge:
    """``child`` was made from ``parent``; both are digests.

    Attributes:
        position: Position of the parent among the child's parents, from 0.
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
    """All ancestors and descendants of a version.

    Attributes:
        root: Digest of the version whose lineage this is.
        nodes: The versions by digest. If several versions share a digest, the oldest one is listed; for the root, the
            one that was asked for.
        edges: The edges between them.
        deleted: Digests of nodes whose version was deleted; they are kept because others were made from them.
        also: The other versions that share a node's digest, ``name:number``, oldest first; only for such nodes.
    """

    root: str
    nodes: Mapping[str, Version]
    edges: tuple[Edge, ...]
    deleted: frozenset[str] = frozenset()
    also: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def __repr__(self) -> str:
        root = self.nodes.get(self.root)
        name = root.ref if root else self.root[:15]
        return f"<Lineage of {name}: {len(self.nodes)} versions, {len(self.edges)} edges>"

    def parents(self, digest: str) -> list[Edge]:
        """Return the edges from ``digest`` to its parents."""
        return [edge for edge in self.edges if edge.child == digest]

    def children(self, digest: str) -> list[Edge]:
        """Return the edges from the children of ``digest`` to it."""
        return [edge for edge in self.edges if edge.parent == digest]


@dataclass(frozen=True)
class Damage:
    """A damage that ``verify`` found: where it is, what is wrong, and what to do."""

    where: str
    problem: str
    hint: str


@dataclass(frozen=True)
class VerifyReport:
    """What ``verify`` checked and found.

    Attributes:
        full: True if every file was hashed; False if only sizes and seals were compared.
        versions: Number of manifests checked.
        files: Number of distinct files checked.
        size: Their size in bytes.
        rebuildable: Number of versions whose files were given up; these are not checked.
        damages: What is wrong; empty if nothing is.
    """

    full: bool
    versions: int
    files: int
    size: int
    rebuildable: int
    damages: tuple[Damage, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing is damaged."""
        return not self.damages


RunState = Literal["running", "unfinished", "published", "empty"]


@dataclass(frozen=True)
class RunFolder:
    """The folder in which a training keeps its checkpoints until its result is published.

    Attributes:
        folder: The folder; its name is the cache key.
        name: The name of the model that is trained.
        size: Its bytes.
        written: When it was last written, in UTC, ISO 8601.
        state: ``running`` if a process holds it. Otherwise ``published`` if there is a version of the same work, so
            that nothing is left to resume; ``unfinished`` if not; ``empty`` if it holds nothing to resume from.
    """

    folder: Path
    name: str
    size: int
    written: str
    state: RunState


@dataclass(frozen=True)
class GcReport:
    """What ``gc`` freed, or would free.

    Attributes:
        dry_run: True if nothing was changed.
        manifests: Number of manifests that no version reaches.
        blobs: Number of files that no kept manifest or evidence lists.
        staging: Number of folders left over by processes that have ended.
        runs: Run folders that were freed.
        size: Bytes of these blobs, staging folders and run folders.
        waiting: Bytes of unreferenced blobs that were kept because they are younger than the grace period.
        kept_runs: Run folders that were kept: those of running and, unless they were to be freed, unfinished trainings.
    """

    dry_run: bool
    manifests: int
    blobs: int
    staging: int
    runs: tuple[RunFolder, ...]
    size: int
    waiting: int
    kept_runs: tuple[RunFolder, ...]


@dataclass(frozen=True)
class VersionUsage:
    """What a digest takes.

    Attributes:
        ref: Its oldest version.
        state: ``here``, or ``rebuildable`` if its files were given up.
        size: Bytes of its files, wherever they are.
        own: Bytes of those of its files that nothing else refers to, and that are here.
        shared: Bytes of those that other versions or evidence refer to too.
        saved: Bytes of its files that are not here.
    """

    ref: str
    state: State
    size: int
    own: int
    shared: int
    saved: int


@dataclass(frozen=True)
class Usage:
    """What takes how many bytes in a registry.

    Attributes:
        versions: Each digest with its files, the largest first; also that of a deleted version that others need.
        files: Bytes of all stored files of versions, each counted once.
        evidence: Bytes of the stored files of evidence that belong to no version.
        unreferenced: Bytes of stored files that nothing refers to; ``gc`` frees them.
        views: Bytes of copies and clones in views; hard links take none.
        runs: Bytes of checkpoints of trainings.
        staging: Bytes in staging folders.
        records: Bytes of manifests, catalog and journal.
        saved: Bytes of files that were given up and are not here, each counted once.
    """

    versions: tuple[VersionUsage, ...]
    files: int
    evidence: int
    unreferenced: int
    views: int
    runs: int
    staging: int
    records: int
    saved: int


@dataclass(frozen=True)
class RebuildReport:
    """What ``rebuild`` restored from the manifests and the journal.

    Attributes:
        events: Number of events replayed.
        versions: Number of versions in the new catalog.
        lost: ``name:number`` of the versions whose manifest is missing or damaged; their numbers are not used again.
    """

    events: int
    versions: int
    lost: tuple[str, ...]


def timestamp(seconds: float | None = None) -> str:
    """Return a time in seconds since 1970, or the current time, in UTC, ISO 8601 with milliseconds."""
    return datetime.fromtimestamp(time.time() if seconds is None else seconds, UTC).isoformat(timespec="milliseconds")


@cache
def _user() -> str:
    """Return the current user's login name, or the user id if it has no name, as in many containers."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"uid:{os.getuid()}"
