"""The record of experiments: which variant answered each request, how that went, and what users said about it.

Any number of threads and several server processes may write to one file.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from concurrent.futures import Future
from pathlib import Path

from ftreg.core.errors import InputError, UnknownName
from ftreg.serving.deployment import Deployment
from ftreg.serving.experiment.database import database_errors
from ftreg.serving.experiment.entry import RequestEntry, storable
from ftreg.serving.experiment.routing import Allocation
from ftreg.serving.experiment.store import RecordStore
from ftreg.serving.experiment.writer import RecordWriter

logger = logging.getLogger("ftreg.serving")

_FEEDBACK_SECONDS = 1.0  # how long feedback waits for its request, which another process may not have written yet


class ExperimentRecord:
    """The record of one deployment's experiment, open for writing.

    If the disk is full or fails, this is logged, requests wait in memory, and the server continues.

    Args:
        path: The file; created if it does not exist.
        deployment: The deployment that is served. Its experiment continues where it left off, with the weights it had.

    Raises:
        InputError: The file is not a record, or the record has the experiment's versions under other names.
        FtregError: It is damaged, cannot be written, or was made by a newer ftreg.
    """

    def __init__(self, path: Path, deployment: Deployment) -> None:
        self._experiment = deployment.id
        self._refs = list(deployment.weights)
        with database_errors(path):
            self._store = RecordStore(path, deployment)
            self._writer = RecordWriter(self._store, path)
        _warn_of_other_weights(deployment, self.allocation)

    @property
    def allocation(self) -> Allocation:
        """The current allocation; changes by other processes are seen within a second."""
        return self._writer.allocation

    @property
    def lost(self) -> int:
        """Number of requests that could not be recorded and were given up."""
        return self._writer.lost

    def add(self, entry: RequestEntry) -> None:
        """Record a request; returns at once. A second request with the same id and version is ignored."""
        self._writer.add(entry.to_row(self._experiment))

    def feedback(self, request_id: str, score: float, comment: str | None) -> Future[None]:
        """Record a user's feedback on an answer; the newest feedback on a request counts.

        Args:
            request_id: Id of the answer.
            score: From 0 to 1.
            comment: What the user wrote.

        Returns:
            A future that is done when the feedback is on disk, and fails with ``UnknownName`` if there is no such
            request.

        Raises:
            InputError: The score is not a number from 0 to 1.
        """
        if not (math.isfinite(score) and 0 <= score <= 1):
            raise InputError(f"{score!r} is not a score", hint="A score is a number from 0 to 1.")
        arguments = (storable(request_id), float(score), None if comment is None else storable(comment))
        return self._writer.call(lambda: self._store.feedback(*arguments), retry_seconds=_FEEDBACK_SECONDS)

    def change_weights(self, weights: Mapping[str, float]) -> Allocation:
        """Change the weights of the named variants; they are on disk when this returns.

        Raises:
            UnknownName: There is no such variant.
            InputError: A weight is negative or not a number, or no weight is above 0.
        """
        for ref in weights:
            if ref not in self._refs:
                raise UnknownName("variant", ref, self._refs)
        changed: Allocation = self._writer.call(lambda: self._store.change_weights(weights)).result()
        return changed

    def close(self) -> None:
        """Write what is waiting, and close the file; later calls do nothing."""
        self._writer.close()


def _warn_of_other_weights(deployment: Deployment, allocation: Allocation) -> None:
    """Log a warning if the experiment's current weights differ from those of the deployment."""
    if Allocation.of(deployment.weights).shares == allocation.shares:
        return
    name, deployed, current = deployment.name, _format(deployment.weights), _format(allocation.weights)
    message = "%s was deployed with the weights %s; its experiment continues with %s. To change them: %s"
    logger.warning(message, name, deployed, current, f"ftreg experiment set {name} {deployed}")


def _format(weights: Mapping[str, float]) -> str:
    return " ".join(f"{ref}={weight:.15g}" for ref, weight in weights.items())
