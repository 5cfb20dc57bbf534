"""The catalog's schema: numbered migrations, each run in one transaction and never changed once released.

The catalog can be rebuilt from the event log and the manifests; see ``Catalog.apply``.
"""

from __future__ import annotations

MIGRATIONS: tuple[str, ...] = (
    """
    CREATE TABLE events (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        at TEXT NOT NULL,
        user TEXT NOT NULL,
        host TEXT NOT NULL,
        action TEXT NOT NULL,
        digest TEXT,
        name TEXT,
        number INTEGER,
        detail TEXT NOT NULL
    ) STRICT;
    CREATE INDEX events_by_name ON events (name, number);
    CREATE INDEX events_by_digest ON events (digest);
    CREATE TRIGGER events_are_never_changed BEFORE UPDATE ON events
        BEGIN SELECT RAISE(ABORT, 'events are never changed'); END;
    CREATE TRIGGER events_are_never_deleted BEFORE DELETE ON events
        BEGIN SELECT RAISE(ABORT, 'events are never deleted'); END;

    CREATE TABLE models (
        name TEXT PRIMARY KEY,
        last_number INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;

    CREATE TABLE manifests (
        digest TEXT PRIMARY KEY,
        kind TEXT NOT NULL,
        size INTEGER NOT NULL,
        producer TEXT NOT NULL,
        cache_key TEXT NOT NULL
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX manifests_by_cache_key ON manifests (cache_key);

    -- A parent has no foreign key: a rebuilt catalog must show a lost parent as missing, not lose its children too.
    CREATE TABLE edges (
        child TEXT NOT NULL REFERENCES manifests ON DELETE CASCADE,
        position INTEGER NOT NULL,
        role TEXT NOT NULL,
        parent TEXT NOT NULL,
        weight REAL,
        PRIMARY KEY (child, position)
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX edges_by_parent ON edges (parent);

    CREATE TABLE versions (
        id INTEGER PRIMARY KEY,
        name TEXT NOT NULL REFERENCES models,
        number INTEGER NOT NULL,
        digest TEXT NOT NULL REFERENCES manifests,
        created TEXT NOT NULL,
        UNIQUE (name, number),
        UNIQUE (name, digest)
    ) STRICT;
    CREATE INDEX versions_by_digest ON versions (digest);

    CREATE TABLE aliases (
        name TEXT NOT NULL,
        alias TEXT NOT NULL,
        number INTEGER NOT NULL,
        PRIMARY KEY (name, alias),
        FOREIGN KEY (name, number) REFERENCES versions (name, number)
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX aliases_by_version ON aliases (name, number);

    CREATE TABLE tags (
        name TEXT NOT NULL,
        number INTEGER NOT NULL,
        key TEXT NOT NULL,
        value TEXT NOT NULL,
        PRIMARY KEY (name, number, key),
        FOREIGN KEY (name, number) REFERENCES versions (name, number) ON DELETE CASCADE
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX tags_by_value ON tags (key, value);

    CREATE TABLE evidence (
        event INTEGER PRIMARY KEY REFERENCES events,
        digest TEXT NOT NULL REFERENCES manifests ON DELETE CASCADE,
        type TEXT NOT NULL
    ) STRICT;
    CREATE INDEX evidence_by_digest ON evidence (digest);

    CREATE TABLE gates (
        plugin TEXT NOT NULL,
        distribution TEXT NOT NULL,
        hook TEXT NOT NULL,
        PRIMARY KEY (plugin, distribution, hook)
    ) STRICT, WITHOUT ROWID;
    """,
    """
    CREATE TABLE evicted (
        digest TEXT PRIMARY KEY REFERENCES manifests ON DELETE CASCADE,
        kept TEXT NOT NULL
    ) STRICT, WITHOUT ROWID;
    """,
)
