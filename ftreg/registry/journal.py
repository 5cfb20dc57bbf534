"""The journal: a copy of the event log, one line of JSON an event, from which the catalog can be rebuilt.

It is written after each commit. If a process was killed in between, the next writer adds the missing events.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from io import BufferedRandom
from pathlib import Path

from ftreg.core.errors import CorruptRegistry
from ftreg.core.manifest import canonical_json
from ftreg.registry.catalog import Catalog
from ftreg.registry.failpoints import failpoint
from ftreg.registry.records import Event

_TAIL = 1 << 16


def catch_up(path: Path, catalog: Catalog) -> None:
    """Append the catalog's events that the journal does not have yet, durably.

    Raises:
        CorruptRegistry: The journal's last line is not an event.
    """
    with _locked(path) as file:
        last = _last_id(file, path)
        if last >= catalog.last_event():
            return
        file.seek(0, os.SEEK_END)
        file.writelines(canonical_json(asdict(event)) + b"\n" for event in catalog.events_after(last))
        file.flush()
        os.fsync(file.fileno())
    failpoint("mirrored")


def read_journal(path: Path) -> list[Event]:
    """Read all events of the journal, oldest first; an incomplete last line is ignored.

    Raises:
        CorruptRegistry: A line is not an event, or is out of order.
    """
    try:
        lines = path.read_bytes().split(b"\n")[:-1]
    except FileNotFoundError:
        return []
    events: list[Event] = []
    for number, line in enumerate(lines, start=1):
        event = _parse(line, f"{path}, line {number}")
        if events and event.id <= events[-1].id:
            raise CorruptRegistry(f"event {event.id} comes after event {events[-1].id}", where=f"{path}, line {number}")
        events.append(event)
    return events


def _parse(line: bytes, where: str) -> Event:
    try:
        return Event(**json.loads(line))
    except (ValueError, TypeError) as error:
        raise CorruptRegistry(f"the journal cannot be read: {error}", where=where) from error


@contextmanager
def _locked(path: Path) -> Iterator[BufferedRandom]:
    """Open the journal to read and write while no other process can."""
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    with os.fdopen(file, "r+b") as opened:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield opened


def _last_id(file: BufferedRandom, path: Path) -> int:
    """Return the id of the last complete line, 0 if there is none; cut off an incomplete line of a killed process."""
    end = file.seek(0, os.SEEK_END)
    size = _TAIL
    while True:
        start = max(0, end - size)
        file.seek(start)
        tail = file.read(end - start)
        # Two line ends, or the start of the file, enclose the last complete line.
        if start == 0 or tail.count(b"\n") >= 2:
            break
        size *= 2
    whole = tail.rfind(b"\n") + 1
    file.truncate(start + whole)
    lines = tail[:whole].splitlines()
    return _parse(lines[-1], str(path)).id if lines else 0
