"""An exchange: one request through one model, from the prompt to the record."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Literal

from ftreg.serving.decoding.codec import Chat, Codec, Prompt, Question
from ftreg.serving.decoding.fleet import Fleet
from ftreg.serving.decoding.generation import Event, Generation, Receive, Settings
from ftreg.serving.deployment import Limits
from ftreg.serving.errors import ApiError, bad_request
from ftreg.serving.experiment.record import Record, Request
from ftreg.serving.http.guard import Visit
from ftreg.serving.http.metrics import Metrics
from ftreg.serving.http.replies import Head, Usage

_SHORT = 2000  # characters or tokens of prompts that are encoded at once; longer ones do not hold up the event loop
_TURN = 50  # characters that a message counts for besides its own: its role, and what the template puts around it


@dataclass(frozen=True)
class Route:
    """Which version answers, and why.

    Attributes:
        kind: By the experiment, asked for by name, or unheard.
        ref: The version.
        digest: Its identity.
        epoch: The allocation's.
        unit: The key that was dealt.
    """

    kind: Literal["experiment", "pinned", "shadow"]
    ref: str
    digest: str
    epoch: int
    unit: str


@dataclass(frozen=True)
class Task:
    """What is to be answered, and how."""

    prompts: Sequence[Prompt]
    settings: Settings
    stream: bool = False


@dataclass(frozen=True)
class Books:
    """Where exchanges are written down."""

    record: Record
    metrics: Metrics


class Exchange:
    """One request through one model. Within ``async with``, whose end records how it went and frees its places.

    Args:
        visit: The request.
        route: Where it goes.
        task: What is asked for.
        fleet: The models.
        limits: What it may take.
        books: Where it is written down.
        then: Called at the end, if an answer was begun.
    """

    def __init__(
        self,
        visit: Visit,
        route: Route,
        task: Task,
        fleet: Fleet,
        limits: Limits,
        books: Books,
        then: Callable[[], None] | None = None,
    ) -> None:
        self.head = Head(visit.id, int(visit.at), route.ref, route.digest)
        self.task = task
        self._begun = False
        self._visit = visit
        self._route = route
        self._fleet = fleet
        self._limits = limits
        self._books = books
        self._then = then
        self._generation: Generation | None = None
        self._prompt_tokens = 0
        self._finish: str | None = None
        self._closed = False

    async def open(self, receive: Receive | None = None) -> None:
        """Begin; ``receive`` tells when the client closes the connection. Raises ``ApiError``."""
        codec = self._fleet.codec(self._route.ref)
        prompts = await _encode(codec, self.task.prompts)
        self._prompt_tokens = sum(map(len, prompts))
        most = self._most_tokens(codec, max(map(len, prompts)))
        batcher = self._fleet.batcher(self._route.ref)
        self._generation = Generation(batcher, self._route.digest, codec, self.task.settings, self.left)
        shadow = self._route.kind == "shadow"
        self._generation.start(prompts, most, stream=self.task.stream, shadow=shadow)
        self._begun = True
        if receive is not None:
            self._generation.watch(receive)

    async def next(self) -> Event | None:
        """What is new; None after the end. Raises ``ApiError`` for a failure."""
        assert self._generation is not None
        event = await self._generation.next()
        if event is not None and event.index == 0 and event.finish is not None:
            self._finish = event.finish
        return event

    @property
    def left(self) -> float:
        """Seconds that the request still has."""
        return max(self._visit.started + self._limits.timeout - time.monotonic(), 0.0)

    @property
    def usage(self) -> Usage:
        """Tokens so far."""
        return Usage(self._prompt_tokens, self._generation.tokens if self._generation else 0)

    def close(self, status: int = 200, error: str | None = None) -> None:
        """Record how it went, once, and free its places."""
        if self._closed:
            return
        self._closed = True
        first_at, started = None, self._visit.started
        if self._generation is not None:
            self._generation.close()
            first_at = self._generation.first_at
            if self._route.kind == "shadow":
                if self._generation.admitted_at is None:
                    return  # dropped, which its batcher has counted
                started = self._generation.admitted_at  # its waiting for quiet says nothing of the model
        usage = self.usage
        request = Request(
            id=self._visit.id,
            at=self._visit.at,
            ref=self._route.ref,
            digest=self._route.digest,
            route=self._route.kind,
            epoch=self._route.epoch,
            unit=self._route.unit,
            status=status,
            error=error,
            latency=time.monotonic() - started,
            first_token=None if first_at is None else first_at - started,
            prompt_tokens=usage.prompt,
            completion_tokens=usage.completion,
            finish=self._finish,
        )
        self._books.record.add(request)
        self._books.metrics.count(request)
        if self._begun and self._then is not None:
            self._then()

    async def __aenter__(self) -> Exchange:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.close()
        elif isinstance(error, ApiError):
            self.close(error.status, error.code)
        elif isinstance(error, OSError | asyncio.CancelledError):
            self.close(499, "client_closed_request")
        else:
            self.close(500, "internal_error")

    def _most_tokens(self, codec: Codec, longest: int) -> int:
        """Most tokens of each answer; raise ``ApiError`` where the prompt, or what is asked for, does not fit."""
        limit = min(self._limits.max_prompt_tokens, codec.context - 1)
        if longest > limit:
            raise self._too_long(f"a prompt may have at most {limit} tokens here, not {longest}")
        room = codec.context - longest
        asked = self.task.settings.max_tokens
        if asked is None:
            return min(self._limits.default_max_tokens, self._limits.max_tokens, room)
        if asked > room:
            raise self._too_long(
                f"the model's context is {codec.context} tokens: a prompt of {longest} leaves no room for {asked} more"
            )
        return asked

    def _too_long(self, message: str) -> ApiError:
        param = "messages" if isinstance(self.task.prompts[0], Chat) else "prompt"
        return bad_request(message, param=param, code="context_length_exceeded")


async def _encode(codec: Codec, prompts: Sequence[Prompt]) -> list[list[int]]:
    if sum(map(_size, prompts)) <= _SHORT:
        return [codec.encode(prompt) for prompt in prompts]
    return await asyncio.to_thread(lambda: [codec.encode(prompt) for prompt in prompts])


def _size(prompt: Prompt) -> int:
    """About how much there is to encode."""
    if isinstance(prompt, Chat):
        return sum(_TURN + len(message.content) for message in prompt.messages)
    return len(prompt.text) if isinstance(prompt, Question) else len(prompt)
