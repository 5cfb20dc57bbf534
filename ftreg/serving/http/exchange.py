"""An exchange: one request answered by one model, from the prompt to the record."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType

from ftreg.serving.decoding.completion import Delta
from ftreg.serving.decoding.generation import Generation, Receive
from ftreg.serving.decoding.pool import ModelPool
from ftreg.serving.decoding.sampling import SamplingParams
from ftreg.serving.decoding.tokenizer import ChatPrompt, Prompt, Tokenizer, UserPrompt
from ftreg.serving.deployment import Limits
from ftreg.serving.errors import ApiError, bad_request
from ftreg.serving.experiment.entry import RequestEntry, RouteKind
from ftreg.serving.http.context import RequestContext
from ftreg.serving.http.recorder import Recorder
from ftreg.serving.http.replies import ReplyHead, TokenUsage

_ENCODE_INLINE = 2000  # characters or tokens that are encoded on the event loop; longer prompts are encoded in a thread
_MESSAGE_OVERHEAD = 50  # characters counted for each message: its role and what the chat template puts around it


@dataclass(frozen=True)
class Assignment:
    """The version that answers a request, and why.

    Attributes:
        route: ``experiment`` (assigned by the experiment), ``pinned`` (named by the client) or ``shadow``.
        ref: The version.
        digest: Its digest.
        epoch: Epoch of the allocation in force.
        unit: The key by which the request was assigned.
    """

    route: RouteKind
    ref: str
    digest: str
    epoch: int
    unit: str


@dataclass(frozen=True)
class GenerationTask:
    """The prompts of a request, and how to answer them."""

    prompts: Sequence[Prompt]
    params: SamplingParams
    stream: bool = False


class Exchange:
    """One request answered by one model. Use it in ``async with``: the end records the outcome and frees all places.

    Args:
        context: The request.
        assignment: The version that answers.
        task: What to generate.
        pool: The models.
        limits: Limits of the request.
        recorder: Records the outcome.
        on_answered: Called after the exchange has been recorded, if generation had started.
    """

    def __init__(
        self,
        context: RequestContext,
        assignment: Assignment,
        task: GenerationTask,
        pool: ModelPool,
        limits: Limits,
        recorder: Recorder,
        on_answered: Callable[[], None] | None = None,
    ) -> None:
        self.head = ReplyHead(context.id, int(context.at), assignment.ref, assignment.digest)
        self.task = task
        self._started = False
        self._context = context
        self._assignment = assignment
        self._pool = pool
        self._limits = limits
        self._recorder = recorder
        self._on_answered = on_answered
        self._generation: Generation | None = None
        self._prompt_tokens = 0
        self._finish: str | None = None
        self._closed = False

    async def open(self, receive: Receive | None = None) -> None:
        """Encode the prompts and start generating.

        Args:
            receive: ASGI's ``receive``, to notice that the client disconnects; None if there is no client.

        Raises:
            ApiError: A prompt cannot be encoded or is too long (400), or the queue is full (429).
        """
        tokenizer = self._pool.tokenizer(self._assignment.ref)
        prompts = await _encode(tokenizer, self.task.prompts)
        self._prompt_tokens = sum(map(len, prompts))
        max_tokens = self._max_tokens(tokenizer, max(map(len, prompts)))
        batcher = self._pool.batcher(self._assignment.ref)
        self._generation = Generation(batcher, self._assignment.digest, tokenizer, self.task.params, self.time_left)
        shadow = self._assignment.route == "shadow"
        self._generation.start(prompts, max_tokens, stream=self.task.stream, shadow=shadow)
        self._started = True
        if receive is not None:
            self._generation.watch(receive)

    async def next(self) -> Delta | None:
        """Wait for the next delta; return None after the last one. Raises ``ApiError`` if generation fails."""
        assert self._generation is not None
        delta = await self._generation.next()
        if delta is not None and delta.index == 0 and delta.finish is not None:
            self._finish = delta.finish
        return delta

    @property
    def time_left(self) -> float:
        """Seconds until the request times out."""
        return max(self._context.started + self._limits.timeout - time.monotonic(), 0.0)

    @property
    def usage(self) -> TokenUsage:
        """Tokens so far."""
        return TokenUsage(self._prompt_tokens, self._generation.tokens if self._generation else 0)

    def close(self, status: int = 200, error: str | None = None) -> None:
        """Record the outcome and free all places; later calls do nothing."""
        if self._closed:
            return
        self._closed = True
        first_token_at, started = None, self._context.started
        if self._generation is not None:
            self._generation.close()
            first_token_at = self._generation.first_token_at
            if self._assignment.route == "shadow":
                if self._generation.admitted_at is None:
                    return  # dropped from the queue; the batcher has counted it
                started = self._generation.admitted_at  # how long a shadow waited says nothing about the model
        usage = self.usage
        self._recorder.add(
            RequestEntry(
                id=self._context.id,
                at=self._context.at,
                ref=self._assignment.ref,
                digest=self._assignment.digest,
                route=self._assignment.route,
                epoch=self._assignment.epoch,
                unit=self._assignment.unit,
                status=status,
                error=error,
                latency=time.monotonic() - started,
                first_token=None if first_token_at is None else first_token_at - started,
                prompt_tokens=usage.prompt,
                completion_tokens=usage.completion,
                finish=self._finish,
            )
        )
        if self._started and self._on_answered is not None:
            self._on_answered()

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

    def _max_tokens(self, tokenizer: Tokenizer, longest: int) -> int:
        """Return the largest number of tokens of each completion: at most what the context leaves.

        Raises:
            ApiError: The longest prompt is too long.
        """
        limit = min(self._limits.max_prompt_tokens, tokenizer.context - 1)
        if longest > limit:
            raise self._too_long(f"a prompt may have at most {limit} tokens, not {longest}")
        asked = self.task.params.max_tokens or self._limits.default_max_tokens
        return min(asked, self._limits.max_tokens, tokenizer.context - longest)

    def _too_long(self, message: str) -> ApiError:
        param = "messages" if isinstance(self.task.prompts[0], ChatPrompt) else "prompt"
        return bad_request(message, param=param, code="context_length_exceeded")


async def _encode(tokenizer: Tokenizer, prompts: Sequence[Prompt]) -> list[list[int]]:
    if sum(map(_size, prompts)) <= _ENCODE_INLINE:
        return [tokenizer.encode(prompt) for prompt in prompts]
    return await asyncio.to_thread(lambda: [tokenizer.encode(prompt) for prompt in prompts])


def _size(prompt: Prompt) -> int:
    """Estimate how much there is to encode, in characters or tokens."""
    if isinstance(prompt, ChatPrompt):
        return sum(_MESSAGE_OVERHEAD + len(message.content) for message in prompt.messages)
    return len(prompt.text) if isinstance(prompt, UserPrompt) else len(prompt)
