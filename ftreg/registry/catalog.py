"""The catalog: the registry's index in SQLite. It changes only by events; see ``Catalog.apply``."""

from __future__ import annotations

import json
import weakref
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, astuple
from pathlib import Path
from typing import Any, Literal

from blake3 import blake3

from ftreg.core.database import check_schema_version, connect, migrate, schema_version, transaction
from ftreg.core.errors import CorruptRegistry
from ftreg.core.manifest import Manifest, Parent, Producer, canonical_json
from ftreg.core.types import State
from ftreg.registry.failpoints import failpoint
from ftreg.registry.records import Edge, Event, Gate, Summary
from ftreg.registry.schema import MIGRATIONS
from ftreg.registry.system import system_errors

_BUSY_SECONDS = 30.0

_SUMMARY = """
    SELECT v.name, v.number, v.digest, m.kind, m.size, v.created, m.producer,
        (SELECT json_group_array(alias) FROM aliases a WHERE a.name = v.name AND a.number = v.number),
        (SELECT json_group_object(key, value) FROM tags t WHERE t.name = v.name AND t.number = v.number),
        EXISTS (SELECT 1 FROM evicted e WHERE e.digest = v.digest)
    FROM versions v JOIN manifests m USING (digest)
"""
_ANCESTORS = """
    WITH RECURSIVE reached (digest) AS (
        SELECT value FROM json_each(?) UNION SELECT parent FROM edges JOIN reached ON child = digest
    ) SELECT digest FROM reached
"""
_DESCENDANTS = """
    WITH RECURSIVE reached (digest) AS (
        SELECT value FROM json_each(?) UNION SELECT child FROM edges JOIN reached ON parent = digest
    ) SELECT digest FROM reached
"""
_EVENT = "SELECT id, at, user, host, action, digest, name, number, detail FROM events"


class Catalog:
    """An open catalog; used by one thread at a time.

    Args:
        path: The database.
        create: Make the file if it is missing.

    Raises:
        FtregError: The schema is newer than this ftreg.
        sqlite3.Error: It cannot be opened; see ``system_errors``.
    """

    def __init__(self, path: Path, *, create: bool = False) -> None:
        self._path = path
        self._connect("rwc" if create else "rw")
        try:
            check_schema_version(self._db, MIGRATIONS, "the catalog", path)
        except BaseException:
            self.close()
            raise

    def _connect(self, mode: Literal["rw", "rwc"]) -> None:
        """Open the database; ``rwc`` makes the file if it is missing."""
        self._db = connect(self._path, mode, busy_seconds=_BUSY_SECONDS)
        self.close = weakref.finalize(self, self._db.close)
        self._inode = self._path.stat().st_ino

    def renew(self) -> None:
        """Open the database again if it was rebuilt since, lest changes go into the old file."""
        if self._path.stat().st_ino != self._inode:
            self.close()
            self._connect("rw")

    @property
    def is_outdated(self) -> bool:
        """Whether migrations are due."""
        return schema_version(self._db) < len(MIGRATIONS)

    def migrate(self) -> None:
        """Bring the schema up to date; the caller holds the home's lock exclusively."""
        migrate(self._db, MIGRATIONS, busy_seconds=_BUSY_SECONDS)

    @contextmanager
    def transaction(self, *, write: bool = True) -> Iterator[None]:
        """Run the body in one transaction: all of it is done, durably, or none; readers see one state throughout."""
        with transaction(self._db, write=write):
            if write:
                failpoint("transaction-open")
            yield
            if write:
                failpoint("transaction-full")
        if write:
            failpoint("committed")

    def append(self, event: Event, manifest: Manifest | None = None) -> None:
        """Write an event into the log and apply it."""
        self.apply(self.log(event), manifest)

    def log(self, event: Event) -> Event:
        """Write an event into the log without applying it; return it with its id."""
        cursor = self._db.execute(
            "INSERT INTO events VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                event.id or None,
                event.at,
                event.user,
                event.host,
                event.action,
                event.digest,
                event.name,
                event.number,
                canonical_json(event.detail).decode(),
            ),
        )
        return Event(cursor.lastrowid or 0, *list(vars(event).values())[1:])

    def apply(self, event: Event, manifest: Manifest | None = None) -> None:
        """Update the tables for ``event``, whether it is new or replayed.

        Args:
            event: The event; it is in the log already.
            manifest: The version's manifest, for ``published``.

        Raises:
            CorruptRegistry: The action is unknown.
        """
        execute, detail = self._db.execute, event.detail
        version = (event.name, event.number)
        match event.action:
            case "published":
                assert manifest is not None
                assert event.digest is not None
                self._insert_manifest(event.digest, manifest)
                self.take_number(event)
                execute(
                    "INSERT INTO versions (name, number, digest, created) VALUES (?, ?, ?, ?)",
                    (*version, event.digest, event.at),
                )
            case "alias_set":
                execute("REPLACE INTO aliases (name, number, alias) VALUES (?, ?, ?)", (*version, detail["alias"]))
            case "alias_removed":
                self.drop_alias(event)
            case "tagged":
                execute("REPLACE INTO tags VALUES (?, ?, ?, ?)", (*version, detail["key"], detail["value"]))
            case "untagged":
                execute("DELETE FROM tags WHERE name = ? AND number = ? AND key = ?", (*version, detail["key"]))
            case "evidence":
                execute("INSERT INTO evidence VALUES (?, ?, ?)", (event.id, event.digest, detail["type"]))
            case "deleted":
                execute("DELETE FROM versions WHERE name = ? AND number = ?", version)
            case "collected":
                execute("DELETE FROM manifests WHERE digest = ?", (event.digest,))
            case "policy_set":
                pass  # it is read from the log
            case "evicted":
                execute("REPLACE INTO evicted VALUES (?, ?)", (event.digest, json.dumps(detail["kept"])))
            case "restored":
                execute("DELETE FROM evicted WHERE digest = ?", (event.digest,))
            case "gate_enlisted":
                gate = (detail["plugin"], detail["distribution"], detail["hook"])
                execute("INSERT OR IGNORE INTO gates VALUES (?, ?, ?)", gate)
            case "gate_released":
                execute("DELETE FROM gates WHERE plugin = ?", (detail["plugin"],))
            case unknown:
                raise CorruptRegistry(f"the event log has an unknown action {unknown!r}", hint="Upgrade ftreg.")

    def take_number(self, event: Event) -> None:
        """Use up the number of a published version: it is never assigned again, even if the version is deleted."""
        self._db.execute(
            "INSERT INTO models VALUES (?, ?) ON CONFLICT DO UPDATE SET last_number = excluded.last_number",
            (event.name, event.number),
        )

    def drop_alias(self, event: Event) -> None:
        """Remove the alias of an event."""
        self._db.execute("DELETE FROM aliases WHERE name = ? AND alias = ?", (event.name, event.detail["alias"]))

    def _insert_manifest(self, digest: str, manifest: Manifest) -> None:
        self._db.execute("INSERT OR IGNORE INTO manifests VALUES (?, ?, ?, ?, ?)", (digest, *manifest_row(manifest)))
        self._db.executemany(
            "INSERT OR IGNORE INTO edges VALUES (?, ?, ?, ?, ?)",
            [astuple(edge) for edge in edges_of(digest, manifest)],
        )

    # Reading.

    def next_number(self, name: str) -> int:
        """Return the number of the next version of ``name``."""
        taken: list[int] = self._column("SELECT last_number FROM models WHERE name = ?", name)
        return taken[0] + 1 if taken else 1

    def versions(
        self,
        *,
        name: str | None = None,
        number: int | None = None,
        digest: str | None = None,
        alias: str | None = None,
        kind: str | None = None,
        tags: Mapping[str, str] | None = None,
        cache_key: str | None = None,
        limit: int | None = None,
    ) -> list[Summary]:
        """Return the versions that match all given filters, newest first."""
        conditions = {
            "v.name = ?": name,
            "v.number = ?": number,
            "v.digest = ?": digest,
            "m.kind = ?": kind,
            "m.cache_key = ?": cache_key,
            "v.number = (SELECT number FROM aliases a WHERE a.name = v.name AND a.alias = ?)": alias,
        }
        given = {text: value for text, value in conditions.items() if value is not None}
        where, values = list(given), list(given.values())
        for key, value in (tags or {}).items():
            where.append("(v.name, v.number) IN (SELECT name, number FROM tags WHERE key = ? AND value = ?)")
            values += [key, value]
        rows = self._rows(
            f"{_SUMMARY} WHERE {' AND '.join(where) or 'TRUE'} ORDER BY v.id DESC LIMIT ?",
            (*values, -1 if limit is None else limit),
        )
        return [_summary(row) for row in rows]

    def count(self) -> int:
        """Return the number of versions."""
        return self._one("SELECT count(*) FROM versions")

    def names(self) -> list[str]:
        """Return the names that have versions."""
        return self._column("SELECT DISTINCT name FROM versions")

    def known_names(self) -> list[str]:
        """Return the names that have, or had, versions."""
        return self._column("SELECT name FROM models")

    def aliases(self, name: str) -> list[str]:
        """Return the aliases of a name."""
        return self._column("SELECT alias FROM aliases WHERE name = ?", name)

    def has(self, digest: str) -> bool:
        """Return True if the catalog knows the manifest ``digest``."""
        return bool(self._column("SELECT 1 FROM manifests WHERE digest = ?", digest))

    def digests(self, prefix: str, limit: int) -> list[str]:
        """Return at most ``limit`` digests that start with ``prefix``."""
        return self._column(
            "SELECT digest FROM manifests WHERE digest >= ? AND digest < ? || 'g' LIMIT ?", prefix, prefix, limit
        )

    def manifests(self) -> dict[str, tuple[str, int, str, str]]:
        """Return what the catalog copied from each manifest, by digest; see ``manifest_row``."""
        return {row[0]: tuple(row[1:]) for row in self._rows("SELECT * FROM manifests")}

    def evicted(self) -> dict[str, frozenset[str]]:
        """Return the digests whose files were given up, each with the paths of those files that were kept."""
        return {digest: frozenset(json.loads(kept)) for digest, kept in self._rows("SELECT digest, kept FROM evicted")}

    def publications(self, digest: str) -> list[Event]:
        """Return the events that published ``digest``, oldest first; its versions may have been deleted since."""
        return list(self._events(f"{_EVENT} WHERE digest = ? AND action = 'published' ORDER BY id", (digest,)))

    def closure(self, digests: list[str], *, up: bool) -> list[str]:
        """Return ``digests`` with all their ancestors (``up``) or all their descendants."""
        return self._column(_ANCESTORS if up else _DESCENDANTS, json.dumps(digests))

    def edges(self) -> set[Edge]:
        """Return all edges."""
        return {Edge(*row) for row in self._rows("SELECT * FROM edges")}

    def edges_of(self, digests: list[str]) -> list[Edge]:
        """Return the edges from ``digests`` to their parents, in order."""
        rows = self._rows(
            "SELECT * FROM edges WHERE child IN (SELECT value FROM json_each(?)) ORDER BY child, position",
            (json.dumps(digests),),
        )
        return [Edge(*row) for row in rows]

    def children(self, digest: str) -> list[str]:
        """Return the digests that were made from ``digest`` directly."""
        return self._column("SELECT DISTINCT child FROM edges WHERE parent = ?", digest)

    def evidence(self, digest: str | None = None) -> Iterator[Event]:
        """Return the events that attach evidence to ``digest``, or to any digest still in the catalog, oldest first."""
        only = "WHERE digest = ?" if digest else ""
        return self._events(
            f"{_EVENT} WHERE id IN (SELECT event FROM evidence {only}) ORDER BY id",  # noqa: S608 - constants
            (digest,) if digest else (),
        )

    def events(self, *, name: str | None = None, number: int | None = None, limit: int | None = None) -> list[Event]:
        """Return all events, or those about a name or a version including its digests; newest first.

        Evidence, eviction and the collection of a manifest concern the digest, whichever version they are recorded for.
        """
        about = "name = :name" if number is None else "name = :name AND number = :number"
        digests = f"SELECT digest FROM events WHERE {about} AND action = 'published'"  # noqa: S608 - constants
        shared = "'evidence', 'evicted', 'restored', 'collected'"
        where = "TRUE" if name is None else f"({about}) OR (action IN ({shared}) AND digest IN ({digests}))"
        values = {"name": name, "number": number, "limit": -1 if limit is None else limit}
        return list(self._events(f"{_EVENT} WHERE {where} ORDER BY id DESC LIMIT :limit", values))

    def alias_history(self, name: str, alias: str) -> list[Event]:
        """Return the events that set or removed an alias, oldest first."""
        return list(
            self._events(
                f"{_EVENT} WHERE name = ? AND action IN ('alias_set', 'alias_removed') "
                "AND json_extract(detail, '$.alias') = ? ORDER BY id",
                (name, alias),
            )
        )

    def events_after(self, last: int) -> Iterator[Event]:
        """Return the events with ids above ``last``, oldest first."""
        return self._events(f"{_EVENT} WHERE id > ? ORDER BY id", (last,))

    def gates(self, hook: str | None = None) -> list[Gate]:
        """Return the gates on record, for ``hook`` or for any hook."""
        rows = self._rows("SELECT plugin, distribution, hook FROM gates WHERE hook = coalesce(?, hook)", (hook,))
        return [Gate(*row) for row in rows]

    def policy_event(self, name: str) -> Event | None:
        """Return the event that last set or removed the policy of a name; None if there is none."""
        query = f"{_EVENT} WHERE name = ? AND number IS NULL AND action = 'policy_set' ORDER BY id DESC LIMIT 1"
        return next(iter(self._events(query, (name,))), None)

    def last_event(self) -> int:
        """Return the newest event's id; 0 if there are no events."""
        return self._one("SELECT coalesce(max(id), 0) FROM events")

    def problems(self, *, full: bool) -> list[str]:
        """Return what SQLite finds wrong with the database; with ``full``, it checks the indexes too."""
        rows = [row[0] for row in self._rows(f"PRAGMA {'integrity' if full else 'quick'}_check")]
        broken = [
            f"row {row[1]} of table {row[0]} refers to a row that does not exist"
            for row in self._rows("PRAGMA foreign_key_check")
        ]
        return [row for row in rows if row != "ok"] + broken

    def _one(self, query: str) -> int:
        number: int = self._rows(query)[0][0]
        return number

    def _column(self, query: str, *values: Any) -> list[Any]:
        return [row[0] for row in self._rows(query, values)]

    def _events(self, query: str, values: tuple[Any, ...] | dict[str, Any]) -> Iterator[Event]:
        for row in self._rows(query, values):
            yield Event(*(*row[:8], json.loads(row[8])))

    def _rows(self, query: str, values: tuple[Any, ...] | dict[str, Any] = ()) -> list[tuple[Any, ...]]:
        """Run a query and return all its rows; every read goes through here."""
        with system_errors(self._path.parent):
            return self._db.execute(query, values).fetchall()


def _summary(row: tuple[Any, ...]) -> Summary:
    """Turn a row of the query ``_SUMMARY`` into a record."""
    *columns, aliases, tags, is_evicted = row
    state: State = "rebuildable" if is_evicted else "here"
    pointers = tuple(sorted(json.loads(aliases))), dict(sorted(json.loads(tags).items()))
    return Summary(*(*columns, *pointers, state))


def manifest_row(manifest: Manifest) -> tuple[str, int, str, str]:
    """Return what the catalog copies from a manifest: kind, size in bytes, producer and cache key."""
    producer = manifest.producer
    key = cache_key(producer, manifest.parents, manifest.environment)
    return manifest.kind, manifest.size, f"{producer.type} {producer.name}", key


def edges_of(digest: str, manifest: Manifest) -> list[Edge]:
    """Return the edges from ``digest`` to the parents that its manifest lists."""
    return [
        Edge(digest, position, parent.role, parent.digest, parent.weight)
        for position, parent in enumerate(manifest.parents)
    ]


def cache_key(producer: Producer, parents: Iterable[Parent], environment: Mapping[str, str | None]) -> str:
    """Return the hash that two versions share if they come from the same work on the same inputs.

    It covers the producer with its configuration, the parents in order, and the versions of packages.
    """
    record = {
        "producer": asdict(producer),
        "parents": [asdict(parent) for parent in parents],
        "environment": dict(environment),
    }
    return blake3(canonical_json(record)).hexdigest()
