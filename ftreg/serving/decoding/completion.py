"""Completions: the state of one answer while it is generated, and the pieces in which it is delivered."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ftreg.serving.decoding.sampling import Sampler, SamplingParams
from ftreg.serving.decoding.text import TextStream
from ftreg.serving.decoding.tokenizer import Tokenizer
from ftreg.serving.errors import ApiError

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True, slots=True)
class Delta:
    """What was added to a completion: text, its end, or an error.

    Attributes:
        index: Which of the request's completions.
        text: The text that was added.
        finish: Why the completion has ended, ``stop`` or ``length``; None while it continues.
        error: Why the completion failed; None if it did not.
    """

    index: int
    text: str = ""
    finish: str | None = None
    error: ApiError | None = None


class Completion:
    """One completion of a prompt, from the queue to its end. The engine's thread generates it, an event loop reads it.

    Args:
        index: Its place among its request's completions.
        digest: Digest of the model.
        prompt: Token ids, at least one.
        max_tokens: Largest number of tokens to generate.
        params: How to choose the tokens.
        seed: Seed of this completion; None draws one.
        tokenizer: The model's tokenizer.
        loop: The event loop on which ``on_delta`` is called.
        on_delta: Receives each delta.
        stream: Whether to deliver text before the end.

    Attributes:
        cancelled: Whether nobody wants the completion any more.
        ended: Whether it has finished or failed.
        tokens: Number of tokens generated so far.
        admitted_at: When it was admitted to the batch, on the monotonic clock; None while it is queued.
        first_token_at: When its first token was chosen, on the monotonic clock.
    """

    def __init__(
        self,
        *,
        index: int,
        digest: str,
        prompt: Sequence[int],
        max_tokens: int,
        params: SamplingParams,
        tokenizer: Tokenizer,
        loop: asyncio.AbstractEventLoop,
        on_delta: Callable[[Delta], None],
        seed: int | None = None,
        stream: bool = False,
    ) -> None:
        self.digest = digest
        self.prompt = prompt
        self.loop = loop
        self.on_delta = on_delta
        self.cancelled = False
        self.ended = False
        self.tokens = 0
        self.admitted_at: float | None = None
        self.first_token_at: float | None = None
        self._index = index
        self._max_tokens = max_tokens
        self._eos = tokenizer.eos
        self._sample = Sampler(params.temperature, params.top_p, seed)
        self._text = TextStream(tokenizer.decode, tokenizer.special, params.stop)
        self._stream = stream
        self._undelivered: list[str] = []

    def advance(self, logits: np.ndarray) -> tuple[int | None, Delta | None]:
        """Choose the next token from ``logits``, float32 of shape (vocabulary,).

        Returns:
            The token, or None if the completion has ended, and the delta to deliver, if any.
        """
        token = self._sample(logits)
        self.tokens += 1
        if self.first_token_at is None:
            self.first_token_at = time.monotonic()
        if token in self._eos:
            return None, self._end("stop")
        text, stopped = self._text.add(token)
        if text:
            self._undelivered.append(text)
        if stopped:
            return None, self._end("stop", flush=False)
        if self.tokens >= self._max_tokens:
            return None, self._end("length")
        return token, self._delta() if self._stream and self._undelivered else None

    def fail(self, error: ApiError) -> Delta:
        """End the completion with an error."""
        self.ended = True
        return Delta(self._index, error=error)

    def _end(self, finish: str, *, flush: bool = True) -> Delta:
        if flush:
            text, stopped = self._text.flush()
            self._undelivered.append(text)
            finish = "stop" if stopped else finish
        self.ended = True
        return self._delta(finish)

    def _delta(self, finish: str | None = None) -> Delta:
        text = "".join(self._undelivered)
        self._undelivered.clear()
        return Delta(self._index, text, finish)
