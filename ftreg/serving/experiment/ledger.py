"""What is written into an experiment's record, in SQL. All but ``__init__`` runs inside of the caller's transaction."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from ftreg.core.errors import InputError, UnknownName
from ftreg.serving.deployment import Deployment
from ftreg.serving.experiment.database import connect, transaction
from ftreg.serving.experiment.routing import Allocation


class Ledger:
    """The record's file, opened to write what is about one experiment; used by one thread at a time.

    Args:
        path: The file; made where it is missing.
        deployment: What is served. Its experiment goes on where it was before.

    Raises:
        InputError: The file is something else, or knows the experiment's versions under other names.
        FtregError: It was made by a newer ftreg.
        sqlite3.Error: It cannot be opened or written; see ``database.faults``.
    """

    def __init__(self, path: Path, deployment: Deployment) -> None:
        self._experiment = deployment.id
        self._path = path
        self._db = connect(path, create=True)
        try:
            with transaction(self._db):
                self._begin(deployment)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def _begin(self, deployment: Deployment) -> None:
        """Take up the deployment's experiment, or begin it."""
        now = time.time()
        known = check_refs(self._db, self._path, deployment)
        self._db.execute(
            "INSERT INTO experiments VALUES (?, ?, ?, ?, ?) "
            "ON CONFLICT DO UPDATE SET deployment = excluded.deployment, opened = excluded.opened",
            (deployment.id, deployment.experiment, deployment.model_dump_json(), now, now),
        )
        if not known:
            self._insert_allocation(Allocation.of(deployment.weights))

    def transaction(self, *, write: bool) -> AbstractContextManager[None]:
        """A context in which everything, or nothing, is written durably."""
        return transaction(self._db, write=write)

    def allocation(self) -> Allocation:
        """The newest allocation, whichever process made it."""
        row = self._db.execute(
            "SELECT epoch, weights, runs FROM allocations WHERE experiment = ? ORDER BY epoch DESC LIMIT 1",
            (self._experiment,),
        ).fetchone()
        return read_allocation(*row)

    def change_weights(self, weights: Mapping[str, float]) -> Allocation:
        """Change the weights of some variants; nothing is written where they are what they were."""
        current = self.allocation()
        wanted = {**current.weights, **weights}
        changed = current.change(wanted)
        if wanted == current.weights:
            return current
        self._insert_allocation(changed)
        return changed

    def _insert_allocation(self, allocation: Allocation) -> None:
        weights, runs = json.dumps(dict(allocation.weights)), json.dumps(allocation.runs)
        self._db.execute(
            "INSERT INTO allocations VALUES (?, ?, ?, ?, ?)",
            (self._experiment, allocation.epoch, time.time(), weights, runs),
        )

    def insert(self, requests: Sequence[tuple[Any, ...]]) -> None:
        """Add rows of the table ``requests``, all columns from ``id`` on; those that are there already are ignored."""
        self._db.executemany(
            "INSERT OR IGNORE INTO requests VALUES (NULL, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            [(self._experiment, *row) for row in requests],
        )

    def feedback(self, request_id: str, score: float, comment: str | None) -> None:
        """Store what was said of an answer, in the place of what was said of it before."""
        found = self._db.execute(
            "SELECT number FROM requests WHERE id = ? AND route != 'shadow' ORDER BY number DESC LIMIT 1", (request_id,)
        ).fetchone()
        if found is None:
            hint = "Send the X-Request-ID of an answer, as soon as that is complete."
            raise UnknownName("request", request_id, [], hint=hint)
        self._db.execute(
            "INSERT INTO feedback (request, at, score, comment) VALUES (?, ?, ?, ?) "
            "ON CONFLICT (request) DO UPDATE SET at = excluded.at, score = excluded.score, comment = excluded.comment",
            (found[0], time.time(), score, comment),
        )


def check_refs(database: sqlite3.Connection, path: Path, deployment: Deployment) -> bool:
    """Whether the deployment's experiment is on record.

    Raises:
        InputError: It is, with its versions under other names than now; their requests would no longer be found.
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


def read_allocation(epoch: int, weights: str, runs: str) -> Allocation:
    """An allocation as it is stored."""
    return Allocation(epoch, json.loads(weights), tuple((end, ref) for end, ref in json.loads(runs)))
