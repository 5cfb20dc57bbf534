"""The scheduler: decides which completions are in the batch and which wait in the queue."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Mapping
from typing import TYPE_CHECKING

from ftreg.core.types import Batch, ServingEngine
from ftreg.serving.decoding.completion import Completion, Delta
from ftreg.serving.errors import engine_failed

if TYPE_CHECKING:
    import numpy as np

logger = logging.getLogger("ftreg.serving")

_PREFILL_TOKENS = 8192  # prompt tokens, padding included, that are read together; more would only take more memory

Delivery = tuple[Completion, Delta]


class Scheduler:
    """A batch of one engine, and the queue of completions that wait for a row in it.

    Access to ``queue`` is guarded by the batcher's lock; everything else belongs to the batcher's thread.

    Args:
        engine: Makes batches.
        rows: Most rows in the batch.
        queue_size: Most completions that wait while the batch is full.
        single_prefill: Whether to read only one prompt at a time.
    """

    def __init__(self, engine: ServingEngine, rows: int, queue_size: int, *, single_prefill: bool = False) -> None:
        self.queue: deque[Completion] = deque()
        self._engine = engine
        self._max_rows = rows
        self._capacity = rows + queue_size
        self._single_prefill = single_prefill
        self._admitted: list[Completion] = []
        self._rows: dict[int, Completion] = {}
        self._tokens: dict[int, int] = {}
        self._batch: Batch | None = None

    @property
    def has_work(self) -> bool:
        """Whether any completion is queued, admitted or being decoded."""
        return bool(self._rows or self._admitted or self.queue)

    @property
    def has_prefill(self) -> bool:
        """Whether admitted prompts have not been read yet."""
        return bool(self._admitted)

    def running(self) -> list[Completion]:
        """Completions that have, or are about to get, a row; without those that have ended and are about to leave."""
        rows = list(self._rows.values())  # a copy: the batcher's thread may be changing it
        return [each for each in (*self._admitted, *rows) if not (each.ended or each.cancelled)]

    def has_room(self, count: int) -> bool:
        """Whether ``count`` more completions fit into batch and queue."""
        return len(self.queue) + len(self.running()) + count <= self._capacity

    def admit(self) -> None:
        """Move completions from the queue to the batch: as many as there are rows and prefill tokens for."""
        longest = 0
        while self.queue and len(self._rows) + len(self._admitted) < self._max_rows:
            longest = max(longest, len(self.queue[0].prompt))
            if self._admitted and (self._single_prefill or longest * (len(self._admitted) + 1) > _PREFILL_TOKENS):
                break
            completion = self.queue.popleft()
            completion.admitted_at = time.monotonic()
            self._admitted.append(completion)

    def prefill(self) -> list[Delivery]:
        """Read the prompts that were admitted and choose the first token of each; return the deltas to deliver."""
        if not self._admitted:
            return []
        if self._batch is None:
            self._batch = self._engine.batch()
        numbers, logits = self._batch.add([(each.digest, each.prompt) for each in self._admitted])
        self._rows.update(zip(numbers, self._admitted, strict=True))
        self._admitted = []
        return self._advance(dict(zip(numbers, logits, strict=True)))

    def decode(self) -> list[Delivery]:
        """Generate one more token of every row; return the deltas to deliver."""
        return self._advance(self._batch.step(self._tokens)) if self._batch is not None else []

    def remove_ended(self) -> None:
        """Free the rows of completions that ended or were cancelled; an empty batch is dropped to free its memory."""
        gone = [row for row, completion in self._rows.items() if completion.ended or completion.cancelled]
        for row in gone:
            del self._rows[row]
            self._tokens.pop(row, None)
        if not self._rows:
            self._batch = None
        elif gone and self._batch is not None:
            self._batch.remove(gone)

    def drop_batch(self) -> list[Completion]:
        """Drop the batch and everything in it; return the completions that were running."""
        running = self.running()
        self._admitted = []
        self._rows.clear()
        self._tokens.clear()
        self._batch = None
        return running

    def _advance(self, logits: Mapping[int, np.ndarray]) -> list[Delivery]:
        """Choose the next token of each row."""
        deliveries: list[Delivery] = []
        for row, values in logits.items():
            completion = self._rows[row]
            token, delta = _advance(completion, values)
            if delta is not None:
                deliveries.append((completion, delta))
            if token is not None:
                self._tokens[row] = token
        return deliveries


def _advance(completion: Completion, logits: np.ndarray) -> tuple[int | None, Delta | None]:
    """Choose the next token of ``completion``; an exception fails this completion and no other."""
    try:
        return completion.advance(logits)
    except BaseException:  # a panic in a tokenizer's Rust code is not an Exception
        logger.exception("a completion of %s failed", completion.digest)
        return None, completion.fail(engine_failed())
