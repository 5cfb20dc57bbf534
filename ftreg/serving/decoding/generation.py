"""Generation: the answers to one request, between the thread that writes them and the event loop that sends them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ftreg.serving import errors
from ftreg.serving.decoding.codec import Codec
from ftreg.serving.decoding.sampling import Sampler
from ftreg.serving.decoding.text import TextWriter
from ftreg.serving.errors import ApiError

if TYPE_CHECKING:
    import numpy as np

    from ftreg.serving.decoding.batcher import Batcher

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]


@dataclass(frozen=True)
class Settings:
    """How answers are to be written.

    Attributes:
        max_tokens: Most tokens of an answer; None for the server's default, or as many as the context leaves.
        temperature: See ``Sampler``.
        top_p: See ``Sampler``.
        stop: Strings before which an answer ends.
        seed: Of the first answer; each further one counts on from it.
        n: Answers to each prompt.
    """

    max_tokens: int | None = None
    temperature: float = 1.0
    top_p: float = 1.0
    stop: tuple[str, ...] = ()
    seed: int | None = None
    n: int = 1


@dataclass(frozen=True, slots=True)
class Event:
    """What is new of an answer: text, or its end.

    Attributes:
        index: Which of the request's answers.
        text: The text that was added.
        finish: Why the answer has ended, ``stop`` or ``length``; None where it goes on.
        error: Why it failed.
    """

    index: int
    text: str = ""
    finish: str | None = None
    error: ApiError | None = None


class Answer:
    """One answer, from waiting to its end. The engine's thread writes it; ``loop`` hears of it.

    Args:
        index: Which of its request's.
        digest: Of the model.
        prompt: Token ids, at least one.
        max_tokens: Most tokens it may have.
        settings: How it is written.
        seed: Its own seed.
        codec: The model's.
        loop: The event loop.
        hear: Called there with each event.
        stream: Whether events are wanted before the end.
    """

    def __init__(
        self,
        *,
        index: int,
        digest: str,
        prompt: Sequence[int],
        max_tokens: int,
        settings: Settings,
        codec: Codec,
        loop: asyncio.AbstractEventLoop,
        hear: Callable[[Event], None],
        seed: int | None = None,
        stream: bool = False,
    ) -> None:
        self.digest = digest
        self.prompt = prompt
        self.loop = loop
        self.hear = hear
        self.cancelled = False
        self.ended = False
        self.tokens = 0
        self.admitted_at: float | None = None
        self.first_at: float | None = None
        self._index = index
        self._max_tokens = max_tokens
        self._ends = codec.ends
        self._sample = Sampler(settings.temperature, settings.top_p, seed)
        self._writer = TextWriter(codec.decode, codec.silent, settings.stop)
        self._stream = stream
        self._said: list[str] = []

    def take(self, logits: np.ndarray) -> tuple[int | None, Event | None]:
        """Choose the next token; return it, or None where the answer has ended, and what there is to tell."""
        token = self._sample(logits)
        self.tokens += 1
        if self.first_at is None:
            self.first_at = time.monotonic()
        if token in self._ends:
            return None, self._end("stop")
        text, stopped = self._writer.add(token)
        if text:
            self._said.append(text)
        if stopped:
            return None, self._end("stop", flush=False)
        if self.tokens >= self._max_tokens:
            return None, self._end("length")
        return token, self._event() if self._stream and self._said else None

    def fail(self, error: ApiError) -> Event:
        """End the answer with an error."""
        self.ended = True
        return Event(self._index, error=error)

    def _end(self, finish: str, *, flush: bool = True) -> Event:
        if flush:
            text, stopped = self._writer.flush()
            self._said.append(text)
            finish = "stop" if stopped else finish
        self.ended = True
        return self._event(finish)

    def _event(self, finish: str | None = None) -> Event:
        text = "".join(self._said)
        self._said.clear()
        return Event(self._index, text, finish)


class Generation:
    """The answers to one request; lives on an event loop.

    Args:
        batcher: Who writes.
        digest: Of the model.
        codec: Of the model.
        settings: How answers are written.
        timeout: Seconds, from now on.
    """

    def __init__(self, batcher: Batcher, digest: str, codec: Codec, settings: Settings, timeout: float) -> None:
        self.answers: list[Answer] = []
        self._batcher = batcher
        self._digest = digest
        self._codec = codec
        self._settings = settings
        self._open = 0
        self._events: asyncio.Queue[Event] = asyncio.Queue()
        self._loop = asyncio.get_running_loop()
        self._timer = self._loop.call_later(timeout, self._abort, errors.timed_out(timeout))
        self._watch: asyncio.Task[None] | None = None

    def start(self, prompts: Sequence[Sequence[int]], max_tokens: int, *, stream: bool, shadow: bool = False) -> None:
        """Begin to answer ``prompts``, each ``settings.n`` times; raise ``ApiError`` (429) where there is no place."""
        seed = self._settings.seed
        for prompt in prompts:
            for number in range(self._settings.n):
                answer = Answer(
                    index=len(self.answers),
                    digest=self._digest,
                    prompt=prompt,
                    max_tokens=max_tokens,
                    settings=self._settings,
                    codec=self._codec,
                    loop=self._loop,
                    hear=self._events.put_nowait,
                    seed=None if seed is None else seed + number,
                    stream=stream,
                )
                self.answers.append(answer)
        self._batcher.submit(self.answers, shadow=shadow)
        self._open = len(self.answers)

    def watch(self, receive: Receive) -> None:
        """End all answers when the client closes the connection; the request's body has been received."""
        self._watch = self._loop.create_task(self._wait_for_end(receive))

    async def next(self) -> Event | None:
        """What is new; None after the last answer's end. Raises ``ApiError`` for a failure, which ends all answers."""
        if not self._open:
            return None
        event = await self._events.get()
        if event.error is not None:
            raise event.error
        if event.finish is not None:
            self._open -= 1
        return event

    def close(self) -> None:
        """End what has not ended yet, and free its places."""
        self._timer.cancel()
        if self._watch is not None:
            self._watch.cancel()
        if self._open:
            self._open = 0
            self._batcher.cancel(self.answers)

    @property
    def tokens(self) -> int:
        """Tokens written."""
        return sum(answer.tokens for answer in self.answers)

    @property
    def admitted_at(self) -> float | None:
        """When the first answer had a place in the batch, by the monotonic clock."""
        return min((answer.admitted_at for answer in self.answers if answer.admitted_at is not None), default=None)

    @property
    def first_at(self) -> float | None:
        """When the first token was there, by the monotonic clock."""
        return min((answer.first_at for answer in self.answers if answer.first_at is not None), default=None)

    def _abort(self, error: ApiError) -> None:
        self._events.put_nowait(Event(0, error=error))
        self._batcher.cancel(self.answers)  # at once: it may be long until somebody takes the event

    async def _wait_for_end(self, receive: Receive) -> None:
        with suppress(OSError):
            while (await receive())["type"] != "http.disconnect":
                pass
        self._abort(errors.client_gone())
