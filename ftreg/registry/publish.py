"""Publishing: the commit that turns a draft into a version.

The order makes it safe to be killed at any point. Files are hashed and synced in staging and renamed into ``blobs/``,
and the folders are synced; the same happens with the manifest; then one transaction assigns the number and writes the
version, its edges, tags, evidence and events. Before the transaction there are only files that nothing refers to, which
``gc`` removes; after it everything is durable.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from ftreg.core.errors import FtregError, InputError
from ftreg.core.manifest import Json, Manifest
from ftreg.core.names import check_name
from ftreg.registry.blobs import Staged, digest_of, measure, store, store_manifest
from ftreg.registry.catalog import Catalog
from ftreg.registry.home import Home
from ftreg.registry.records import Draft, Event, Summary
from ftreg.registry.staging import open_staging

_LONGEST_TAG = 512


@dataclass(frozen=True)
class Prepared:
    """A draft whose files are hashed and durable: its digest is known, but it is not published yet."""

    draft: Draft
    manifest: Manifest
    files: tuple[Staged, ...]

    @property
    def digest(self) -> str:
        """The digest of the version to be."""
        return digest_of(self.manifest.to_bytes())


def prepare(draft: Draft) -> Prepared:
    """Hash a draft's files, make them durable and build the manifest; raise as ``measure`` and ``manifest_of`` do."""
    files = measure(draft.folder)
    return Prepared(draft, manifest_of(draft, files), tuple(files))


def manifest_of(draft: Draft, files: Sequence[Staged]) -> Manifest:
    """Build the manifest of a draft.

    Raises:
        InputError: The kind cannot be a name.
        FtregError: There are no files, or the configuration or the facts cannot be written as JSON.
    """
    check_name(draft.kind, what="kind")
    if not files:
        raise FtregError("the folder has no files", where=str(draft.folder), hint="A version needs at least one file.")
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
        # Return what a reader will see: JSON turns tuples into lists.
        return Manifest.from_bytes(manifest.to_bytes())
    except (TypeError, ValueError) as error:
        raise FtregError(f"configuration, facts or file names cannot be written as JSON: {error}") from error


def check_tag(key: str, value: str) -> None:
    """Raise ``InputError`` if ``key`` or ``value`` cannot be those of a tag."""
    check_name(key, what="tag")
    if not value or len(value) > _LONGEST_TAG or not value.isprintable():
        raise InputError(
            f"{value!r} cannot be the value of the tag {key!r}", hint=f"Use 1-{_LONGEST_TAG} printable characters."
        )


def store_version(home: Home, manifest: Manifest, staged: Sequence[Staged]) -> str:
    """Move files and manifest into place, durably, and return the digest; the caller holds the home's lock."""
    store(home, staged)
    with open_staging(home) as scratch:
        return store_manifest(home, manifest.to_bytes(), scratch.folder)


def record_version(
    catalog: Catalog, name: str, manifest: Manifest, tags: Mapping[str, str], evidence: Sequence[Mapping[str, Json]]
) -> None:
    """Record a new version, its tags and its evidence in the catalog, in the caller's transaction.

    Raises:
        FtregError: A parent is not in the registry.
    """
    digest = digest_of(manifest.to_bytes())
    for parent in manifest.parents:
        if not catalog.has(parent.digest):
            raise FtregError(
                f"its {parent.role} {parent.digest} is not in the registry",
                where=name,
                hint="It was never published, or it was deleted and collected in the meantime.",
            )
    number = catalog.next_number(name)
    published = Event.now("published", digest, name, number)
    catalog.append(published, manifest)
    _record_tags(catalog, published, tags)
    for detail in evidence:
        catalog.append(Event.now("evidence", digest, name, number, **detail))


def add_tags(catalog: Catalog, version: Summary, tags: Mapping[str, str]) -> None:
    """Set the tags that a version does not have yet, in the caller's transaction."""
    new = {key: value for key, value in tags.items() if version.tags.get(key) != value}
    _record_tags(catalog, Event.now("tagged", version.digest, version.name, version.number), new)


def _record_tags(catalog: Catalog, event: Event, tags: Mapping[str, str]) -> None:
    """Record tags of the version, and at the time, of ``event``."""
    for key, value in tags.items():
        catalog.append(replace(event, action="tagged", detail={"key": key, "value": value}))
