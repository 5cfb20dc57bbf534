"""Publishing: the commit that makes a draft a version.

The order is what makes it safe to be killed anywhere: bytes are hashed and made durable in staging, renamed into
``blobs/``, and the folders made durable; the manifest likewise; then one transaction gives the number and writes the
version, its edges, tags, evidence and events. Before the transaction there are only files that nothing refers to, which
``gc`` removes; after it everything is durable.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from ftreg.core.errors import FtregError, InputError
from ftreg.core.manifest import Json, Manifest
from ftreg.core.names import check_name
from ftreg.registry.blobs import Staged, digest_of, measure, store, store_manifest
from ftreg.registry.catalog import Catalog
from ftreg.registry.home import Home
from ftreg.registry.records import Draft, Event
from ftreg.registry.staging import copy_in, open_staging

RUN = "run"
_LONGEST_TAG = 512


@dataclass(frozen=True)
class Prepared:
    """A draft whose files are hashed and durable: its digest is known, and nothing is published yet."""

    draft: Draft
    manifest: Manifest
    files: tuple[Staged, ...]

    @property
    def digest(self) -> str:
        """The digest that the version will have."""
        return digest_of(self.manifest.to_bytes())


def prepare(draft: Draft) -> Prepared:
    """Hash a draft's files and make them durable; raise as ``measure`` and ``manifest_of`` do."""
    files = measure(draft.folder)
    return Prepared(draft, manifest_of(draft, files), tuple(files))


def manifest_of(draft: Draft, files: Sequence[Staged]) -> Manifest:
    """The manifest of a draft; raise ``FtregError`` for one without files, or with facts that JSON cannot hold."""
    check_name(draft.kind, what="kind")
    if not files:
        raise FtregError("has no files", where=str(draft.folder), hint="A version needs at least one.")
    manifest = Manifest(
        kind=draft.kind,
        task=draft.task,
        files=tuple(sorted(item.entry for item in files)),
        parents=tuple(draft.parents),
        producer=draft.producer,
        environment=draft.environment,
        requires=tuple(draft.requires),
        capabilities=tuple(sorted(set(draft.capabilities))),
        facts=draft.facts,
    )
    try:
        # What is written is what is used: tuples become lists now, not when it is next read.
        return Manifest.from_bytes(manifest.to_bytes())
    except (TypeError, ValueError) as error:
        raise FtregError(f"configuration, facts or file names cannot be written as JSON: {error}") from error


def evidence_of(draft: Draft, report: Sequence[Staged]) -> list[Mapping[str, Json]]:
    """The details of a draft's evidence events; the report's files go with the evidence of type ``run``."""
    records = [*draft.evidence]
    if report and RUN not in [kind for kind, _ in records]:
        records.insert(0, (RUN, {}))
    return [evidence_detail(kind, body, report if kind == RUN else ()) for kind, body in records]


def evidence_detail(kind: str, body: Mapping[str, Json], files: Sequence[Staged]) -> Mapping[str, Json]:
    """The detail of an evidence event."""
    check_name(kind, what="evidence type")
    return {"type": kind, "body": dict(body), "files": [asdict(item.entry) for item in files]}


def check_tag(key: str, value: str) -> None:
    """Raise ``InputError`` for a key or value that cannot be a tag's."""
    check_name(key, what="tag")
    if not value or len(value) > _LONGEST_TAG or not value.isprintable():
        raise InputError(
            f"{value!r} cannot be the value of tag {key!r}", hint=f"Use 1-{_LONGEST_TAG} printable characters."
        )


def store_version(home: Home, manifest: Manifest, staged: Sequence[Staged]) -> str:
    """Move files and manifest to where they stay, durably; return the digest. The caller holds the home's lock."""
    store(home, staged)
    with open_staging(home) as scratch:
        return store_manifest(home, manifest.to_bytes(), scratch.folder)


def record_version(
    catalog: Catalog, name: str, manifest: Manifest, tags: Mapping[str, str], evidence: Sequence[Mapping[str, Json]]
) -> None:
    """Write everything about a new version into the catalog, in the caller's transaction.

    Raises:
        FtregError: A parent is not in the registry.
    """
    digest = digest_of(manifest.to_bytes())
    for parent in manifest.parents:
        if not catalog.has(parent.digest):
            raise FtregError(
                f"its {parent.role} {parent.digest} is not in the registry",
                where=name,
                hint="It was deleted and collected while this was made, or never published.",
            )
    number = catalog.next_number(name)
    published = Event.now("published", digest, name, number)
    catalog.append(published, manifest)
    record_tags(catalog, published, tags)
    for detail in evidence:
        catalog.append(Event.now("evidence", digest, **detail))


def record_tags(catalog: Catalog, version: Event, tags: Mapping[str, str]) -> None:
    """Write tags into the catalog, in the caller's transaction; ``version`` is an event about who gets them."""
    for key, value in tags.items():
        catalog.append(replace(version, action="tagged", detail={"key": key, "value": value}))


@contextmanager
def staged_files(home: Home, folder: Path | None) -> Iterator[list[Staged]]:
    """The hashed files of ``folder``, ready to be stored; a folder outside of staging is copied there first."""
    if folder is None:
        yield []
    elif home.owns(folder):
        yield measure(folder)
    else:
        with open_staging(home) as staging:
            copy_in(folder, staging.files)
            yield measure(staging.files)
