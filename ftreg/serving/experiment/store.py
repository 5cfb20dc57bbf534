"""The record's store: the SQL statements that write one experiment."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, closing
from pathlib import Path

from ftreg.core.database import transaction
from ftreg.core.errors import InputError, UnknownName
from ftreg.serving.deployment import Deployment
from ftreg.serving.experiment.database import database_errors, open_to_read, open_to_write
from ftreg.serving.experiment.entry import Row
from ftreg.serving.experiment.routing import Allocation


class RecordStore:
    """A record's file, opened to write one experiment; used by one thread at a time.

    Every method but ``close`` runs inside a ``transaction`` of the caller's.

    Args:
        path: The file; created if it does not exist.
        deployment: The deployment that is served. Its experiment continues where it left off.

    Raises:
        InputError: The file is not a record, or the record has the experiment's versions under other names.
        FtregError: It was made by a newer ftreg.
        sqlite3.Error: It cannot be opened or written; see ``database_errors``.
    """

    def __init__(self, path: Path, deployment: Deployment) -> None:
        self._experiment = deployment.id
        self._path = path
        self._database = open_to_write(path)
        try:
            with self.transaction():
                self._open(deployment)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the file."""
        self._database.close()

    def transaction(self, *, write: bool = True) -> AbstractContextManager[None]:
        """Return a context whose body is committed as a whole, durably, or not at all."""
        return transaction(self._database, write=write)

    def allocation(self) -> Allocation:
        """Return the newest allocation, whichever process made it."""
        row = self._database.execute(
            "SELECT epoch, weights, runs FROM allocations WHERE experiment = ? ORDER BY epoch DESC LIMIT 1",
            (self._experiment,),
        ).fetchone()
        return read_allocation(*row)

    def change_weights(self, weights: Mapping[str, float]) -> Allocation:
        """Change the weights of some variants and return the new allocation; equal weights change nothing."""
        *before, current = self._allocations()
        wanted = {**current.weights, **weights}
        changed = current.change(wanted, before)
        if wanted == current.weights:
            return current
        self._insert_allocation(changed)
        return changed

    def insert(self, rows: Sequence[Row]) -> None:
        """Insert rows of the table ``requests``, all columns from ``id`` on; rows with a known id are ignored."""
        self._database.executemany(
            "INSERT OR IGNORE INTO requests VALUES (NULL, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            [(self._experiment, *row) for row in rows],
        )

    def feedback(self, request_id: str, score: float, comment: str | None) -> None:
        """Store feedback on a request, replacing earlier feedback; raise ``UnknownName`` for an unknown request."""
        found = self._database.execute(
            "SELECT number FROM requests WHERE id = ? AND route != 'shadow' ORDER BY number DESC LIMIT 1", (request_id,)
        ).fetchone()
        if found is None:
            hint = "Send the X-Request-ID of an answer that is complete."
            raise UnknownName("request", request_id, [], hint=hint)
        self._database.execute(
            "INSERT INTO feedback (request, at, score, comment) VALUES (?, ?, ?, ?) "
            "ON CONFLICT (request) DO UPDATE SET at = excluded.at, score = excluded.score, comment = excluded.comment",
            (found[0], time.time(), score, comment),
        )

    def _open(self, deployment: Deployment) -> None:
        """Continue the deployment's experiment, or start it with the deployment's weights."""
        now = time.time()
        known = _check_refs(self._database, self._path, deployment)
        self._database.execute(
            "INSERT INTO experiments VALUES (?, ?, ?, ?, ?) "
            "ON CONFLICT DO UPDATE SET deployment = excluded.deployment, opened = excluded.opened",
            (deployment.id, deployment.experiment, deployment.model_dump_json(), now, now),
        )
        if not known:
            self._insert_allocation(Allocation.of(deployment.weights))

    def _allocations(self) -> list[Allocation]:
        """Return all allocations of the experiment, oldest first."""
        rows = self._database.execute(
            "SELECT epoch, weights, runs FROM allocations WHERE experiment = ? ORDER BY epoch", (self._experiment,)
        )
        return [read_allocation(*row) for row in rows]

    def _insert_allocation(self, allocation: Allocation) -> None:
        weights, runs = json.dumps(dict(allocation.weights)), json.dumps(allocation.runs)
        self._database.execute(
            "INSERT INTO allocations VALUES (?, ?, ?, ?, ?)",
            (self._experiment, allocation.epoch, time.time(), weights, runs),
        )


def check_deployable(path: Path, deployment: Deployment) -> None:
    """Check without a server that the record at ``path``, if there is one, accepts ``deployment``; write nothing.

    Raises:
        InputError: The file is not a record, or the record has the experiment's versions under other names.
        FtregError: It is damaged, cannot be read, or was made by a newer ftreg.
    """
    with database_errors(path):
        try:
            database = open_to_read(path)
        except UnknownName:
            return
        with closing(database), transaction(database, write=False):
            _check_refs(database, path, deployment)


def read_allocation(epoch: int, weights: str, runs: str) -> Allocation:
    """Return an allocation from its columns."""
    return Allocation(epoch, json.loads(weights), tuple((end, ref) for end, ref in json.loads(runs)))


def _check_refs(database: sqlite3.Connection, path: Path, deployment: Deployment) -> bool:
    """Return whether the deployment's experiment is in the record.

    Raises:
        InputError: It is, with its versions under other names, so that their earlier requests would not be found.
    """
    known = database.execute("SELECT deployment FROM experiments WHERE id = ?", (deployment.id,)).fetchone()
    if known is None:
        return False
    before, now = [variant["ref"] for variant in json.loads(known[0])["variants"]], list(deployment.weights)
    if before != now:
        raise InputError(
            f"the record knows these versions as {', '.join(before)}, not as {', '.join(now)}",
            where=str(path),
            hint="Deploy them under those names, or as a new experiment, with another name or salt.",
        )
    return True
