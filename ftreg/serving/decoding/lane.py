"""A lane: a batch of answers that are being written, and those that wait for a place in it."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Mapping
from typing import TYPE_CHECKING

from ftreg.core.types import Batch, ServingEngine
from ftreg.serving.decoding.generation import Answer, Event
from ftreg.serving.errors import engine_failed

if TYPE_CHECKING:
    import numpy as np

logger = logging.getLogger("ftreg.serving")

_READ = 8192  # tokens of prompts, padding included, that are read together: more would only take more memory


class Lane:
    """A batch, and who waits for a place in it.

    ``waiting`` is its batcher's to guard with a lock; the rest is the batcher's thread's.

    Args:
        engine: Makes batches.
        rows: Most answers in the batch.
        queue: Most answers that wait while the batch is full.
        singly: Whether prompts are read one at a time.
    """

    def __init__(self, engine: ServingEngine, rows: int, queue: int, *, singly: bool = False) -> None:
        self.waiting: deque[Answer] = deque()
        self._engine = engine
        self._most_rows = rows
        self._most = rows + queue
        self._singly = singly
        self._joining: list[Answer] = []
        self._rows: dict[int, Answer] = {}
        self._tokens: dict[int, int] = {}
        self._batch: Batch | None = None

    @property
    def busy(self) -> bool:
        """Whether there is anything to do."""
        return bool(self._rows or self._joining or self.waiting)

    @property
    def joining(self) -> bool:
        """Whether there are prompts to read."""
        return bool(self._joining)

    def members(self) -> list[Answer]:
        """Who is in the batch, or is about to join it; those that have ended are about to leave, and do not count."""
        rows = list(self._rows.values())  # the batcher's thread may be changing it
        return [answer for answer in (*self._joining, *rows) if not (answer.ended or answer.cancelled)]

    def room(self, count: int) -> bool:
        """Whether ``count`` answers more may come."""
        return len(self.waiting) + len(self.members()) + count <= self._most

    def admit(self) -> None:
        """Take from those that wait as many as have a place and can be read together."""
        longest = 0
        while self.waiting and len(self._rows) + len(self._joining) < self._most_rows:
            longest = max(longest, len(self.waiting[0].prompt))
            if self._joining and (self._singly or longest * (len(self._joining) + 1) > _READ):
                break
            answer = self.waiting.popleft()
            answer.admitted_at = time.monotonic()
            self._joining.append(answer)

    def join(self) -> list[tuple[Answer, Event]]:
        """Read the prompts of those admitted, and choose the first token of each; return what to tell whom."""
        if not self._joining:
            return []
        if self._batch is None:
            self._batch = self._engine.batch()
        numbers, logits = self._batch.add([(answer.digest, answer.prompt) for answer in self._joining])
        self._rows.update(zip(numbers, self._joining, strict=True))
        self._joining = []
        return self._choose(dict(zip(numbers, logits, strict=True)))

    def step(self) -> list[tuple[Answer, Event]]:
        """Write one token more of each answer; return what to tell whom."""
        return self._choose(self._batch.step(self._tokens)) if self._batch is not None else []

    def leave(self) -> None:
        """Take out who has ended or was cancelled; an empty batch is given up, which frees its memory."""
        gone = [row for row, answer in self._rows.items() if answer.ended or answer.cancelled]
        for row in gone:
            del self._rows[row]
            self._tokens.pop(row, None)
        if not self._rows:
            self._batch = None
        elif gone and self._batch is not None:
            self._batch.remove(gone)

    def clear(self) -> list[Answer]:
        """Give the batch up; return who was in it, or about to join it."""
        answers = self.members()
        self._joining = []
        self._rows.clear()
        self._tokens.clear()
        self._batch = None
        return answers

    def _choose(self, logits: Mapping[int, np.ndarray]) -> list[tuple[Answer, Event]]:
        """Choose each row's next token."""
        told: list[tuple[Answer, Event]] = []
        for row, values in logits.items():
            answer = self._rows[row]
            token, event = _take(answer, values)
            if event is not None:
                told.append((answer, event))
            if token is not None:
                self._tokens[row] = token
        return told


def _take(answer: Answer, logits: np.ndarray) -> tuple[int | None, Event | None]:
    """Let ``answer`` choose its token; what fails in it is its own failure."""
    try:
        return answer.take(logits)
    except BaseException:  # panics of a tokenizer's Rust are no Exceptions
        logger.exception("an answer of %s failed", answer.digest)
        return None, answer.fail(engine_failed())
