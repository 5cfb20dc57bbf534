"""The batcher: one thread that drives one engine, with continuous batching (Yu et al. 2022, "Orca").

Answers join the batch and leave it between two tokens; nobody waits for the longest of a group.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable, Sequence

from ftreg.core.guard import describe
from ftreg.core.types import ServingEngine
from ftreg.serving.decoding.generation import Answer, Event
from ftreg.serving.decoding.lane import Lane
from ftreg.serving.errors import ApiError, busy, engine_failed, unavailable

logger = logging.getLogger("ftreg.serving")

_SHADOWS = 16  # answers of shadows that may wait; more are dropped
_GRACE = 30.0  # seconds that closing waits for the engine's last token


class Traffic:
    """Knows whether clients wait for any answer of a deployment; its shadows run while none does."""

    def __init__(self) -> None:
        self._lanes: list[Lane] = []
        self._listeners: list[Callable[[], None]] = []

    @property
    def quiet(self) -> bool:
        """Whether no client waits."""
        return not any(lane.busy for lane in self._lanes)

    def join(self, lane: Lane, listener: Callable[[], None]) -> None:
        """Watch ``lane``; call ``listener`` when a lane has nothing more to do."""
        self._lanes.append(lane)
        self._listeners.append(listener)

    def announce(self) -> None:
        """A lane has nothing more to do."""
        for listener in self._listeners:
            listener()


class Batcher:
    """Writes answers with one engine, in a thread of its own, which also closes the engine in the end.

    Shadows' answers have a batch of their own, which goes on only while no client waits for any answer.

    Args:
        engine: The engine; nobody else may use it.
        rows: Most answers that are written side by side.
        queue: Most answers that wait for that.
        traffic: The deployment's.

    Attributes:
        dropped: Shadows' answers that found no place, or not in time, by digest.
        error: What has ended the thread, other than ``close``.
    """

    def __init__(self, engine: ServingEngine, *, rows: int, queue: int, traffic: Traffic | None = None) -> None:
        self.dropped: Counter[str] = Counter()
        self.error: str | None = None
        self._engine = engine
        self._live = Lane(engine, rows, queue)
        self._shadow = Lane(engine, rows, _SHADOWS, singly=True)
        self._traffic = traffic or Traffic()
        self._wake = threading.Condition()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="ftreg-batcher", daemon=True)
        self._traffic.join(self._live, self._notify)
        self._thread.start()

    def submit(self, answers: Sequence[Answer], *, shadow: bool = False) -> None:
        """Take answers to write, all or none; raise ``ApiError`` (429) where too many wait, 503 once it is closed."""
        lane = self._shadow if shadow else self._live
        with self._wake:
            if self._closing:
                raise _closed()
            if not lane.room(len(answers)):
                self.dropped.update(answer.digest for answer in answers if shadow)
                raise busy()
            lane.waiting.extend(answers)
            self._wake.notify()

    def cancel(self, answers: Iterable[Answer]) -> None:
        """Nobody wants these: those that wait are forgotten, those in the batch leave it before its next token."""
        with self._wake:
            for answer in answers:
                answer.cancelled = True
            self.dropped.update(answer.digest for answer in self._shadow.waiting if answer.cancelled)
            for lane in (self._live, self._shadow):
                lane.waiting = deque(answer for answer in lane.waiting if not answer.cancelled)
            self._wake.notify()
        self._announce()

    def loads(self) -> tuple[Counter[str], Counter[str]]:
        """How many answers wait and how many are written, by digest, shadows' included."""
        with self._wake:
            lanes = (self._live, self._shadow)
            waiting = Counter(answer.digest for lane in lanes for answer in lane.waiting)
            return waiting, Counter(answer.digest for lane in lanes for answer in lane.members())

    def close(self) -> None:
        """End all answers with an error, and close the engine."""
        with self._wake:
            self._closing = True
            self._wake.notify()
        self._thread.join(_GRACE)

    def _notify(self) -> None:
        with self._wake:
            self._wake.notify()

    def _announce(self) -> None:
        if not self._live.busy:
            self._traffic.announce()

    # What follows runs in the thread.

    def _run(self) -> None:
        reason = _closed()
        try:
            while (lane := self._next()) is not None:
                self._turn(lane)
                if lane is self._live:
                    self._announce()
        except BaseException as error:  # such as a panic of an engine's Rust: who knows what it has left behind
            logger.exception("the engine broke down; its models answer no more")
            self.error = describe(error)
            reason = engine_failed()
        self._fail(self._give_up(), reason)
        self._engine.close()

    def _give_up(self) -> list[Answer]:
        """Let nobody in any more; return all who were in."""
        with self._wake:
            self._closing = True
            lanes = (self._live, self._shadow)
            answers = [answer for lane in lanes for answer in (*lane.clear(), *lane.waiting)]
            for lane in lanes:
                lane.waiting.clear()
            return answers

    def _next(self) -> Lane | None:
        """Wait for a lane that has work, and let answers join it; None when the batcher is closed."""
        with self._wake:
            while not self._closing:
                if self._live.busy:
                    self._live.admit()
                    return self._live
                if self._shadow.busy and self._traffic.quiet:
                    self._shadow.admit()
                    return self._shadow
                self._wake.wait()
            return None

    def _turn(self, lane: Lane) -> None:
        """Let the cancelled leave, those that joined have their first token, and everybody a further one.

        Shadows' turns are one pass: where one has joined, that is all, and clients' answers go before the next.
        """
        try:
            lane.leave()
            works = [lane.join, lane.step]
            if lane is self._shadow:
                works = works[:1] if lane.joining else works[1:]
            for work in works:
                self._tell(work())
                lane.leave()
        except Exception:  # running out of memory included: this batch is lost, the next may do
            answers = [answer for answer in lane.clear() if not answer.ended]
            logger.exception("the engine failed; %d answers are lost", len(answers))
            self._fail(answers, engine_failed())

    def _fail(self, answers: Iterable[Answer], error: ApiError) -> None:
        self._tell([(answer, answer.fail(error)) for answer in answers])

    def _tell(self, told: Iterable[tuple[Answer, Event]]) -> None:
        """Bring events to the event loops of those who wait for them, one call for each loop."""
        by_loop: dict[asyncio.AbstractEventLoop, list[tuple[Answer, Event]]] = defaultdict(list)
        for answer, event in told:
            by_loop[answer.loop].append((answer, event))
        for loop, events in by_loop.items():
            try:
                loop.call_soon_threadsafe(_hear, events)
            except RuntimeError:
                logger.debug("nobody hears %d events: their event loop is closed", len(events))


def _hear(events: Sequence[tuple[Answer, Event]]) -> None:
    for answer, event in events:
        answer.hear(event)


def _closed() -> ApiError:
    return unavailable("the server is shutting down", code="shutting_down")
