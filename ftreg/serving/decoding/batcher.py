"""The batcher: one thread that drives one engine with continuous batching (Yu et al. 2022, "Orca").

Completions join and leave the batch between any two tokens, so none waits for the longest of a group.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Sequence

from ftreg.core.guard import describe
from ftreg.core.types import ServingEngine
from ftreg.serving.decoding.completion import Completion
from ftreg.serving.decoding.scheduler import Delivery, Scheduler
from ftreg.serving.decoding.traffic import LiveTraffic
from ftreg.serving.errors import ApiError, engine_failed, server_busy, unavailable

logger = logging.getLogger("ftreg.serving")

_SHADOW_QUEUE = 16  # shadows' completions that may wait; more are dropped
_CLOSE_SECONDS = 30.0  # how long closing waits for the engine's last step


class Batcher:
    """Generates completions with one engine, in a thread of its own, which also closes the engine at the end.

    Shadows' completions have a scheduler of their own, which runs only while no client of the deployment is waiting.

    Args:
        engine: The engine; nothing else may use it.
        rows: Most completions that are decoded together.
        queue_size: Most completions that wait for a row.
        traffic: The deployment's live traffic, shared by its batchers.

    Attributes:
        dropped: How many of the shadows' completions were dropped, for lack of room or time, by digest.
        error: What ended the thread; None while it runs and after ``close``.
    """

    def __init__(
        self, engine: ServingEngine, *, rows: int, queue_size: int, traffic: LiveTraffic | None = None
    ) -> None:
        self.dropped: Counter[str] = Counter()
        self.error: str | None = None
        self._engine = engine
        self._live = Scheduler(engine, rows, queue_size)
        self._shadow = Scheduler(engine, rows, _SHADOW_QUEUE, single_prefill=True)
        self._schedulers = (self._live, self._shadow)
        self._traffic = traffic or LiveTraffic()
        self._wake = threading.Condition()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="ftreg-batcher", daemon=True)
        self._traffic.register(self._live, self._notify)
        self._thread.start()

    def submit(self, completions: Sequence[Completion], *, shadow: bool = False) -> None:
        """Queue completions, all or none.

        Raises:
            ApiError: The queue is full (429), or the batcher is closed (503).
        """
        scheduler = self._shadow if shadow else self._live
        with self._wake:
            if self._closing:
                raise _shutting_down()
            if not scheduler.has_room(len(completions)):
                self.dropped.update(completion.digest for completion in completions if shadow)
                raise server_busy()
            scheduler.queue.extend(completions)
            self._wake.notify()

    def cancel(self, completions: Iterable[Completion]) -> None:
        """Cancel completions: queued ones are removed now, running ones leave the batch before its next token."""
        with self._wake:
            for completion in completions:
                completion.cancelled = True
            self.dropped.update(completion.digest for completion in self._shadow.queue if completion.cancelled)
            for scheduler in self._schedulers:
                scheduler.queue = deque(each for each in scheduler.queue if not each.cancelled)
            self._wake.notify()
        self._notify_if_idle()

    def loads(self) -> tuple[Counter[str], Counter[str]]:
        """How many completions are queued, and how many are running, by digest, shadows included."""
        with self._wake:
            queued = Counter(each.digest for scheduler in self._schedulers for each in scheduler.queue)
            running = Counter(each.digest for scheduler in self._schedulers for each in scheduler.running())
            return queued, running

    def close(self) -> None:
        """End all completions with an error, and close the engine."""
        with self._wake:
            self._closing = True
            self._wake.notify()
        self._thread.join(_CLOSE_SECONDS)

    def _notify(self) -> None:
        with self._wake:
            self._wake.notify()

    def _notify_if_idle(self) -> None:
        if not self._live.has_work:
            self._traffic.notify_idle()

    # Everything below runs in the batcher's thread.

    def _run(self) -> None:
        reason = _shutting_down()
        try:
            while (scheduler := self._next()) is not None:
                self._step(scheduler)
                if scheduler is self._live:
                    self._notify_if_idle()
        except BaseException as error:  # such as a panic in an engine's Rust code: the engine's state is unknown
            logger.exception("the engine broke down; its models no longer answer")
            self.error = describe(error)
            reason = engine_failed()
        self._fail(self._shut_down(), reason)
        self._engine.close()

    def _shut_down(self) -> list[Completion]:
        """Refuse new completions from now on; empty batches and queues, and return what was in them."""
        with self._wake:
            self._closing = True
            left = [each for scheduler in self._schedulers for each in (*scheduler.drop_batch(), *scheduler.queue)]
            for scheduler in self._schedulers:
                scheduler.queue.clear()
            return left

    def _next(self) -> Scheduler | None:
        """Wait for a scheduler that has work and admit completions to its batch; None once the batcher is closing."""
        with self._wake:
            while not self._closing:
                if self._live.has_work:
                    self._live.admit()
                    return self._live
                if self._shadow.has_work and self._traffic.idle:
                    self._shadow.admit()
                    return self._shadow
                self._wake.wait()
            return None

    def _step(self, scheduler: Scheduler) -> None:
        """Remove what has ended, read new prompts, and generate one token of every row.

        For shadows this is one forward pass at most, a prefill or a decoding step, so that clients wait for no more.
        """
        try:
            scheduler.remove_ended()
            passes = [scheduler.prefill, scheduler.decode]
            if scheduler is self._shadow:
                passes = passes[:1] if scheduler.has_prefill else passes[1:]
            for forward in passes:
                self._deliver(forward())
                scheduler.remove_ended()
        except Exception:  # running out of memory included: this batch is lost, the next one may succeed
            lost = [completion for completion in scheduler.drop_batch() if not completion.ended]
            logger.exception("the engine failed; %d completions are lost", len(lost))
            self._fail(lost, engine_failed())

    def _fail(self, completions: Iterable[Completion], error: ApiError) -> None:
        self._deliver([(completion, completion.fail(error)) for completion in completions])

    def _deliver(self, deliveries: Iterable[Delivery]) -> None:
        """Pass deltas to the event loops that wait for them, with one call for each loop."""
        by_loop: dict[asyncio.AbstractEventLoop, list[Delivery]] = defaultdict(list)
        for completion, delta in deliveries:
            by_loop[completion.loop].append((completion, delta))
        for loop, deltas in by_loop.items():
            try:
                loop.call_soon_threadsafe(_call_back, deltas)
            except RuntimeError:
                logger.debug("%d deltas were dropped: their event loop is closed", len(deltas))


def _call_back(deliveries: Sequence[Delivery]) -> None:
    for completion, delta in deliveries:
        completion.on_delta(delta)


def _shutting_down() -> ApiError:
    return unavailable("the server is shutting down", code="shutting_down")
