"""The manifest: the canonical record of a version, whose BLAKE3 digest is the version's identity.

It does not contain times, hosts and users, which are in the event log. So the same step on the same inputs with the
same result has the same digest, on any machine and at any time.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from ftreg.core.errors import CorruptRegistry
from ftreg.core.names import check_relative_path
from ftreg.core.requirements import Requirement

SCHEMA = "ftreg.manifest/1"

Json = Any
"""A JSON value: None, bool, int, float, str, and lists and string-keyed mappings of these."""


def canonical_json(value: Json) -> bytes:
    """Write ``value`` as JSON in its canonical form: sorted keys, no spaces, UTF-8, no NaN."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.encode("utf-8")


@dataclass(frozen=True, order=True)
class FileEntry:
    """A file of a version: its path in the version's folder, its size in bytes, and its BLAKE3 in hex."""

    path: str
    size: int
    blake3: str


@dataclass(frozen=True)
class Parent:
    """A parent of a version: what the version was made from, and in which role.

    Attributes:
        role: ``base``, ``adapter``, ``dataset``, ``source``, or a plugin's own.
        digest: The parent's digest.
        weight: Its weight among the inputs of a step; None if it was not an input of a step.
    """

    role: str
    digest: str
    weight: float | None = None


@dataclass(frozen=True)
class Producer:
    """What made a version, with everything needed to do it again.

    Attributes:
        type: ``method``, ``step``, ``import`` or ``init``.
        name: The method's or step's name; for an import what was imported, such as ``base`` or ``data``.
        plugin: The plugin that provides it; ``core`` for ftreg itself.
        distribution: The plugin's distribution.
        version: That distribution's version; empty for imports, whose result does not depend on it.
        config: The full configuration, defaults included.
    """

    type: str
    name: str
    plugin: str
    distribution: str
    version: str
    config: Mapping[str, Json] = field(default_factory=dict)


@dataclass(frozen=True)
class Manifest:
    """Everything that makes a version what it is.

    Attributes:
        kind: What the files are: ``checkpoint``, ``adapter``, ``onnx``, ``dataset``, or a plugin's own kind.
        task: What the model is for, such as ``text-generation``.
        files: Its files, sorted by path.
        parents: What it was made from, in the order in which the producer took it.
        producer: What made it, with the full configuration.
        environment: Versions of the distributions that made it; None for one that was not installed.
        requires: Distributions that loading it needs, beyond those of the engine that loads it.
        capabilities: What can be done with it; see ``ftreg.core.capabilities``. Sorted.
        facts: Properties of the result itself, such as architecture, parameter count, dtype and context length.
    """

    kind: str
    task: str
    files: tuple[FileEntry, ...]
    parents: tuple[Parent, ...]
    producer: Producer
    environment: Mapping[str, str | None] = field(default_factory=dict)
    requires: tuple[Requirement, ...] = ()
    capabilities: tuple[str, ...] = ()
    facts: Mapping[str, Json] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """The size of all files in bytes."""
        return sum(entry.size for entry in self.files)

    def parent(self, role: str) -> str | None:
        """Return the digest of the first parent in ``role``; None if there is none."""
        return next((parent.digest for parent in self.parents if parent.role == role), None)

    def to_bytes(self) -> bytes:
        """Return the canonical bytes, whose BLAKE3 is the version's digest."""
        return canonical_json({"schema": SCHEMA, **asdict(self)})

    @classmethod
    def from_bytes(cls, data: bytes) -> Manifest:
        """Read a manifest; raise ``CorruptRegistry`` if it is malformed or lists a path outside its folder."""
        try:
            raw = json.loads(data)
            schema = raw.pop("schema")
            if schema != SCHEMA:
                raise CorruptRegistry(
                    f"a manifest has the schema {schema!r}; this ftreg reads {SCHEMA!r}", hint="Upgrade ftreg."
                )
            files = tuple(FileEntry(**entry) for entry in raw.pop("files"))
            for entry in files:
                check_relative_path(entry.path)
            return cls(
                files=files,
                parents=tuple(Parent(**parent) for parent in raw.pop("parents")),
                producer=Producer(**raw.pop("producer")),
                requires=tuple(Requirement(**requirement) for requirement in raw.pop("requires")),
                capabilities=tuple(raw.pop("capabilities")),
                **raw,
            )
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise CorruptRegistry(f"a manifest cannot be read: {error}", hint="Run `registry.verify()`") from error
