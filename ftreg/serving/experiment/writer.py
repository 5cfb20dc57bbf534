"""The record's writer: the one thread of a server that writes, so that no request waits for a disk."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from ftreg.core.errors import FtregError, UnknownName
from ftreg.serving.experiment.database import database_errors
from ftreg.serving.experiment.entry import Row
from ftreg.serving.experiment.routing import Allocation
from ftreg.serving.experiment.store import RecordStore

logger = logging.getLogger("ftreg.serving")

_GATHER_SECONDS = 0.05  # for how long rows are gathered into one transaction
_POLL_SECONDS = 0.5  # how often the allocation is read again, which other processes may have changed
_MAX_WAITING = 100_000  # rows that wait in memory while the disk is full; then the oldest are lost


class _Job:
    """Work for the writer whose outcome somebody waits for.

    Args:
        work: Runs inside a transaction. If it raises ``FtregError``, that is the outcome, and nothing is rolled back.
        retry_seconds: For how long to repeat it while it raises ``UnknownName``.
    """

    def __init__(self, work: Callable[[], Any], retry_seconds: float) -> None:
        self.future: Future[Any] = Future()
        self._work = work
        self._retry_until = time.monotonic() + retry_seconds
        self._outcome: Any = None

    def run(self) -> bool:
        """Run the work and keep its outcome until it is durable; return whether it should be run again."""
        try:
            self._outcome = self._work()
        except FtregError as error:
            self._outcome = error
        return isinstance(self._outcome, UnknownName) and time.monotonic() < self._retry_until

    def settle(self, error: Exception | None = None) -> None:
        """Give the future its outcome, or ``error`` if the outcome could not be stored."""
        outcome = error or self._outcome
        if not self.future.set_running_or_notify_cancel():
            return
        if isinstance(outcome, Exception):
            self.future.set_exception(outcome)
        else:
            self.future.set_result(outcome)


class RecordWriter:
    """Writes rows and runs jobs in a thread of its own; closes the store at the end.

    While the disk is full or fails, rows wait in memory, jobs fail, and the server continues.

    Args:
        store: Where to write; nothing else may use it.
        path: The record's file, for messages.

    Attributes:
        allocation: The current allocation; changes by other processes are seen within a second.
        lost: Number of rows that were given up.

    Raises:
        sqlite3.Error: The allocation cannot be read; the store is closed.
    """

    def __init__(self, store: RecordStore, path: Path) -> None:
        self.lost = 0
        self._store = store
        self._path = path
        self._wake = threading.Condition()
        self._rows: deque[Row] = deque()
        self._jobs: list[_Job] = []
        self._retries: list[_Job] = []
        self._failing = False
        self._closing = False
        try:
            self.allocation: Allocation = store.allocation()
        except BaseException:
            store.close()
            raise
        self._thread = threading.Thread(target=self._run, name="ftreg-record", daemon=True)
        self._thread.start()

    def add(self, row: Row) -> None:
        """Write a row soon; returns at once."""
        with self._wake:
            if self._closing:
                self.lost += 1
                return
            self._rows.append(row)
            self._trim()
            if len(self._rows) == 1:
                self._wake.notify()

    def call(self, work: Callable[[], Any], *, retry_seconds: float = 0.0) -> Future[Any]:
        """Run ``work`` in a transaction after the rows that were added before it; see ``_Job``.

        The future is done when the outcome is durable.

        Raises:
            FtregError: The writer is closed.
        """
        job = _Job(work, retry_seconds)
        with self._wake:
            if self._closing:
                raise FtregError("the experiment's record is closed", where=str(self._path))
            self._jobs.append(job)
            self._wake.notify()
        return job.future

    def close(self) -> None:
        """Write what is waiting, end the thread, and close the store; later calls do nothing."""
        with self._wake:
            self._closing = True
            self._wake.notify()
        self._thread.join()
        self._store.close()

    # Everything below runs in the writer's thread.

    def _run(self) -> None:
        closing = False
        while not closing:
            rows, jobs, closing = self._take()
            self._write(rows, jobs, last=closing)

    def _take(self) -> tuple[list[Row], list[_Job], bool]:
        """Wait for something to write. Rows are gathered for a moment; jobs are taken at once."""
        with self._wake:
            if not (self._rows or self._jobs or self._retries or self._closing):
                self._wake.wait(_POLL_SECONDS)
            self._wake.wait_for(
                lambda: self._jobs or self._closing, _POLL_SECONDS if self._failing else _GATHER_SECONDS
            )
            rows, jobs = list(self._rows), [*self._retries, *self._jobs]
            self._rows.clear()
            self._jobs, self._retries = [], []
            return rows, jobs, self._closing

    def _write(self, rows: list[Row], jobs: list[_Job], *, last: bool) -> None:
        """Write in one transaction. If it fails, rows are kept for the next one, and jobs fail."""
        try:
            with database_errors(self._path), self._store.transaction(write=bool(rows or jobs)):
                self._store.insert(rows)
                retries = {job for job in jobs if job.run() and not last}
                allocation = self._store.allocation()
        except FtregError as error:
            self._keep(rows, error, last=last)
            for job in jobs:
                job.settle(error)
        except Exception as error:  # a defect: writing these rows again would fail again
            logger.exception("%d requests are not recorded", len(rows))
            self.lost += len(rows)
            for job in jobs:
                job.settle(error)
        else:
            if self._failing:
                logger.warning("%s can be written again; %d requests were lost", self._path, self.lost)
            self._failing = False
            self.allocation = allocation
            self._retries = [job for job in jobs if job in retries]
            for job in jobs:
                if job not in retries:
                    job.settle()

    def _keep(self, rows: list[Row], error: FtregError, *, last: bool) -> None:
        """Put rows that could not be written back in front of those that were added since."""
        if not self._failing:
            logger.error("requests wait in memory to be recorded: %s", error)
        self._failing = True
        with self._wake:
            self._rows.extendleft(reversed(rows))
            self._trim()
            if last:
                self.lost += len(self._rows)

    def _trim(self) -> None:
        while len(self._rows) > _MAX_WAITING:
            self._rows.popleft()
            self.lost += 1
