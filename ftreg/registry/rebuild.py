"""Rebuilding: replaces a lost or damaged catalog with one made from the manifests and the journal."""

from __future__ import annotations

import sqlite3
from contextlib import suppress
from pathlib import Path

from ftreg.core.errors import CorruptRegistry, FtregError
from ftreg.core.manifest import Manifest
from ftreg.registry.blobs import read_manifest
from ftreg.registry.catalog import Catalog
from ftreg.registry.home import Home, sync_folder
from ftreg.registry.journal import catch_up, read_journal
from ftreg.registry.records import Event, RebuildReport


def rebuild(home: Home) -> RebuildReport:
    """Replay the journal into a new catalog and put it in the place of the old one, which is kept aside.

    The caller holds the home's lock exclusively.

    Raises:
        CorruptRegistry: There is no journal, or it cannot be read.
    """
    # If the old catalog can be read, it may have events that a killed process did not copy to the journal.
    with suppress(sqlite3.Error, FtregError, OSError):
        catch_up(home.events, Catalog(home.database))
    events = read_journal(home.events)
    if not events:
        raise CorruptRegistry(
            "there is no journal to rebuild the catalog from", where=str(home.events), hint="Restore it from a copy."
        )
    new = home.path / "registry.db-new"
    _remove(new)
    catalog = Catalog(new, create=True)
    catalog.migrate()
    lost = _replay(home, catalog, events)
    report = RebuildReport(len(events), catalog.count(), lost)
    catalog.close()  # moves everything from the write-ahead log into the database
    _remove(home.path / "registry.db-wal")
    _remove(home.path / "registry.db-shm")
    if home.database.exists():
        home.database.replace(home.path / "registry.db-old")
    new.rename(home.database)
    sync_folder(home.path)
    return report


def _replay(home: Home, catalog: Catalog, events: list[Event]) -> tuple[str, ...]:
    """Apply all events in one transaction; return the names of versions whose manifest cannot be read."""
    manifests: dict[str, Manifest] = {}
    for digest in {event.digest for event in events if event.digest is not None}:
        with suppress(CorruptRegistry):
            manifests[digest] = read_manifest(home, digest)
    lost: dict[tuple[str | None, int | None], None] = {}
    with catalog.transaction():
        for event in events:
            logged = catalog.log(event)
            if event.digest is None:
                catalog.apply(logged)
            elif event.digest in manifests:
                catalog.apply(logged, manifests[event.digest])
            elif event.action == "published":
                catalog.take_number(event)
                lost[event.name, event.number] = None
            elif event.action == "alias_set":
                catalog.drop_alias(event)
            elif event.action == "deleted":
                lost.pop((event.name, event.number), None)
    return tuple(f"{name}:{number}" for name, number in lost)


def _remove(path: Path) -> None:
    path.unlink(missing_ok=True)
