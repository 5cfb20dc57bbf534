"""The record of experiments: who was answered by which variant, how that went, and what the users said of it.

Many threads and several server processes may write into one file. Within a process one thread does all the writing, so
that no request waits for a disk.
"""

from __future__ import annotations

import hashlib
import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ftreg.core.errors import FtregError, InputError, UnknownName
from ftreg.serving.deployment import Deployment
from ftreg.serving.experiment.database import connect, faults, transaction
from ftreg.serving.experiment.ledger import Ledger, check_refs
from ftreg.serving.experiment.routing import Allocation

logger = logging.getLogger("ftreg.serving")

_GATHER = 0.05  # seconds for which requests are gathered into one transaction
_POLL = 0.5  # seconds after which the weights that other processes have changed are seen
_PATIENCE = 1.0  # seconds that feedback waits for its request, which another process may still be gathering
_MOST_WAITING = 100_000  # requests that wait for a disk with room; then the oldest are lost

Row = tuple[Any, ...]


@dataclass(frozen=True)
class Request:
    """A request that a model has answered, or failed to answer.

    Attributes:
        id: Names the answer; unique, but that a shadow's answer has the id of the request that it follows.
        at: When it came, in Unix seconds.
        ref: The variant or shadow.
        digest: Its identity.
        route: ``experiment``, ``pinned`` (the client asked for this version) or ``shadow`` (nobody sees the answer).
        epoch: The allocation's by which it was dealt.
        unit: What is randomized: the key, or a hash of it. It is hashed before it is stored.
        status: The HTTP status of the answer.
        error: The error's code; None for an answer.
        latency: Seconds until the answer was complete.
        first_token: Seconds until its first token; None where there was none.
        prompt_tokens: Tokens read.
        completion_tokens: Tokens written.
        finish: Why the answer ended, such as ``stop`` or ``length``; None where it did not.
    """

    id: str
    at: float
    ref: str
    digest: str
    route: Literal["experiment", "pinned", "shadow"]
    epoch: int
    unit: str
    status: int
    error: str | None
    latency: float
    first_token: float | None
    prompt_tokens: int
    completion_tokens: int
    finish: str | None


class _Call:
    """Something that the writer is to do, and that somebody waits for.

    Args:
        work: What to do, inside of a transaction. An error of ftreg's is its outcome, and undoes nothing.
        patience: Seconds for which it is tried again while it raises ``UnknownName``.
    """

    def __init__(self, work: Callable[[], Any], patience: float = 0.0) -> None:
        self._work = work
        self._until = time.monotonic() + patience
        self._outcome: Any = None
        self.future: Future[Any] = Future()

    def run(self) -> bool:
        """Do it, and keep the outcome until it is durable; return whether it is to be tried again."""
        try:
            self._outcome = self._work()
        except FtregError as error:
            self._outcome = error
        return isinstance(self._outcome, UnknownName) and time.monotonic() < self._until

    def settle(self, error: Exception | None = None) -> None:
        """Tell who waits: the outcome, or the ``error`` that kept it from being stored."""
        outcome = error or self._outcome
        if not self.future.set_running_or_notify_cancel():
            return
        if isinstance(outcome, Exception):
            self.future.set_exception(outcome)
        else:
            self.future.set_result(outcome)


class Record:
    """An open record, to be written by any thread of a server.

    A disk that is full, or otherwise fails, is logged; requests wait in memory for it, and the server goes on.

    Args:
        path: The file; made where it is missing.
        deployment: What is served. Its experiment goes on where it was before, with the weights that it had then.

    Attributes:
        allocation: The current one; other processes' changes are seen within a second.
        lost: Requests that could not be recorded and were given up.

    Raises:
        InputError: The file is something else, or knows the experiment's versions under other names.
        FtregError: It is damaged, cannot be written, or was made by a newer ftreg.
    """

    def __init__(self, path: Path, deployment: Deployment) -> None:
        self.lost = 0
        self._path = path
        self._experiment = deployment.id
        self._refs = list(deployment.weights)
        self._wake = threading.Condition()
        self._rows: deque[Row] = deque()
        self._calls: list[_Call] = []
        self._retries: list[_Call] = []
        self._failing = False
        self._closing = False
        with faults(path):
            self._ledger = Ledger(path, deployment)
            try:
                self.allocation = self._ledger.allocation()
            except BaseException:
                self._ledger.close()
                raise
        _compare_weights(deployment, self.allocation)
        self._thread = threading.Thread(target=self._run, name="ftreg-record", daemon=True)
        self._thread.start()

    # What servers call.

    def add(self, request: Request) -> None:
        """Record a request; returns at once. A second request of the same id and variant is ignored."""
        row = self._row(request)
        with self._wake:
            if self._closing:
                self.lost += 1
                return
            self._rows.append(row)
            self._trim()
            if len(self._rows) == 1:
                self._wake.notify()

    def feedback(self, request_id: str, score: float, comment: str | None) -> Future[None]:
        """Record what a user says of an answer, from 0 to 1; the newest feedback on a request counts.

        The future is done when it is durable, and fails with ``UnknownName`` where no such request is on record.
        """
        if not (math.isfinite(score) and 0 <= score <= 1):
            raise InputError(f"{score!r} is no score", hint="A score is a number from 0 to 1.")
        said = (_text(request_id), float(score), None if comment is None else _text(comment))
        return self._call(_Call(lambda: self._ledger.feedback(*said), _PATIENCE))

    def change_weights(self, weights: Mapping[str, float]) -> Allocation:
        """Change the weights of the variants that are named; durable when it returns.

        Raises:
            UnknownName: There is no such variant.
            InputError: A weight is no number from 0 up, or none would be above 0.
        """
        for ref in weights:
            if ref not in self._refs:
                raise UnknownName("variant", ref, self._refs)
        changed: Allocation = self._call(_Call(lambda: self._ledger.change_weights(weights))).result()
        return changed

    def close(self) -> None:
        """Write what waits, and end."""
        with self._wake:
            self._closing = True
            self._wake.notify()
        self._thread.join()
        self._ledger.close()

    def _call(self, call: _Call) -> Future[Any]:
        with self._wake:
            if self._closing:
                raise FtregError("the experiment's record is closed", where=str(self._path))
            self._calls.append(call)
            self._wake.notify()
        return call.future

    def _row(self, request: Request) -> Row:
        """The columns of the table ``requests``, from ``id`` on; the unit is hashed, so that no key is stored."""
        unit = hashlib.sha256(self._experiment.encode() + request.unit.encode("utf-8", "surrogatepass")).digest()[:16]
        return (
            _text(request.id),
            float(request.at),
            request.ref,
            request.digest,
            request.route,
            int(request.epoch),
            unit,
            int(request.status),
            request.error,
            float(request.latency),
            None if request.first_token is None else float(request.first_token),
            int(request.prompt_tokens),
            int(request.completion_tokens),
            request.finish,
        )

    # What the writer does.

    def _run(self) -> None:
        closing = False
        while not closing:
            rows, calls, closing = self._take()
            self._write(rows, calls, last=closing)

    def _take(self) -> tuple[list[Row], list[_Call], bool]:
        """Wait for something to write; requests are gathered for a moment, what somebody waits for is not."""
        with self._wake:
            if not (self._rows or self._calls or self._retries or self._closing):
                self._wake.wait(_POLL)
            self._wake.wait_for(lambda: self._calls or self._closing, _POLL if self._failing else _GATHER)
            rows, calls = list(self._rows), [*self._retries, *self._calls]
            self._rows.clear()
            self._calls, self._retries = [], []
            return rows, calls, self._closing

    def _write(self, rows: list[Row], calls: list[_Call], *, last: bool) -> None:
        """Write in one transaction; where that fails, requests wait for the next time, and whoever waits is told."""
        try:
            with faults(self._path), self._ledger.transaction(write=bool(rows or calls)):
                self._ledger.insert(rows)
                again = {call for call in calls if call.run() and not last}
                allocation = self._ledger.allocation()
        except FtregError as error:
            self._keep(rows, error, last=last)
            for call in calls:
                call.settle(error)
        except Exception as error:  # a defect: these requests would fail again
            logger.exception("%d requests are not recorded", len(rows))
            self.lost += len(rows)
            for call in calls:
                call.settle(error)
        else:
            if self._failing:
                logger.warning("%s is written again; %d requests were lost", self._path, self.lost)
            self._failing = False
            self.allocation = allocation
            self._retries = [call for call in calls if call in again]
            for call in calls:
                if call not in again:
                    call.settle()

    def _keep(self, rows: list[Row], error: FtregError, *, last: bool) -> None:
        """Put requests that could not be written back in front of those that came since."""
        if not self._failing:
            logger.error("requests wait in memory: %s", error)
        self._failing = True
        with self._wake:
            self._rows.extendleft(reversed(rows))
            self._trim()
            if last:
                self.lost += len(self._rows)

    def _trim(self) -> None:
        while len(self._rows) > _MOST_WAITING:
            self._rows.popleft()
            self.lost += 1


def check_deployable(path: Path, deployment: Deployment) -> None:
    """Check, without a server, that ``Record`` will take ``deployment``; nothing is made where there is no record yet.

    Raises:
        InputError: The file is something else, or knows the experiment's versions under other names.
        FtregError: It is damaged, cannot be read, or was made by a newer ftreg.
    """
    with faults(path):
        try:
            database = connect(path, create=False)
        except UnknownName:
            return
        try:
            with transaction(database, write=False):
                check_refs(database, path, deployment)
        finally:
            database.close()


def _compare_weights(deployment: Deployment, allocation: Allocation) -> None:
    """Warn where the weights in force, which an experiment keeps, are not those of the deployment."""
    if Allocation.of(deployment.weights).shares == allocation.shares:
        return
    name, deployed, current = deployment.name, _spell(deployment.weights), _spell(allocation.weights)
    message = "%s was deployed with the weights %s; its experiment goes on with %s. To change them: %s"
    logger.warning(message, name, deployed, current, f"ftreg experiment set {name} {deployed}")


def _spell(weights: Mapping[str, float]) -> str:
    return " ".join(f"{ref}={weight:.15g}" for ref, weight in weights.items())


def _text(text: str) -> str:
    """``text`` without lone surrogates, which SQLite does not take."""
    return text.encode("utf-8", "replace").decode()
