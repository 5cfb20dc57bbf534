"""Generation: all completions of one request, seen from the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from contextlib import suppress
from typing import Any

from ftreg.serving import errors
from ftreg.serving.decoding.batcher import Batcher
from ftreg.serving.decoding.completion import Completion, Delta
from ftreg.serving.decoding.sampling import SamplingParams
from ftreg.serving.decoding.tokenizer import Tokenizer
from ftreg.serving.errors import ApiError

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]


class Generation:
    """The completions of one request. It belongs to the event loop on which it was made.

    Args:
        batcher: Generates the completions.
        digest: Digest of the model.
        tokenizer: The model's tokenizer.
        params: How to choose the tokens.
        timeout: Seconds, from now on, after which all completions end with an error.
    """

    def __init__(
        self, batcher: Batcher, digest: str, tokenizer: Tokenizer, params: SamplingParams, timeout: float
    ) -> None:
        self.completions: list[Completion] = []
        self._batcher = batcher
        self._digest = digest
        self._tokenizer = tokenizer
        self._params = params
        self._unfinished = 0
        self._deltas: asyncio.Queue[Delta] = asyncio.Queue()
        self._loop = asyncio.get_running_loop()
        self._timer = self._loop.call_later(timeout, self._abort, errors.timed_out(timeout))
        self._disconnect: asyncio.Task[None] | None = None

    def start(self, prompts: Sequence[Sequence[int]], max_tokens: int, *, stream: bool, shadow: bool = False) -> None:
        """Submit ``params.n`` completions of each prompt; raise ``ApiError`` (429) if the queue is full."""
        seed = self._params.seed
        for prompt in prompts:
            for number in range(self._params.n):
                completion = Completion(
                    index=len(self.completions),
                    digest=self._digest,
                    prompt=prompt,
                    max_tokens=max_tokens,
                    params=self._params,
                    tokenizer=self._tokenizer,
                    loop=self._loop,
                    on_delta=self._deltas.put_nowait,
                    seed=None if seed is None else seed + number,
                    stream=stream,
                )
                self.completions.append(completion)
        self._batcher.submit(self.completions, shadow=shadow)
        self._unfinished = len(self.completions)

    def watch(self, receive: Receive) -> None:
        """Cancel all completions when the client disconnects; the request's body must have been received."""
        self._disconnect = self._loop.create_task(self._wait_for_disconnect(receive))

    async def next(self) -> Delta | None:
        """Wait for the next delta; return None after the last one.

        Raises:
            ApiError: A completion failed, timed out, or the client disconnected; all completions end.
        """
        if not self._unfinished:
            return None
        delta = await self._deltas.get()
        if delta.error is not None:
            raise delta.error
        if delta.finish is not None:
            self._unfinished -= 1
        return delta

    def close(self) -> None:
        """Cancel the completions that have not ended, which frees their rows and places in the queue."""
        self._timer.cancel()
        if self._disconnect is not None:
            self._disconnect.cancel()
        if self._unfinished:
            self._unfinished = 0
            self._batcher.cancel(self.completions)

    @property
    def tokens(self) -> int:
        """Number of tokens generated so far, over all completions."""
        return sum(completion.tokens for completion in self.completions)

    @property
    def admitted_at(self) -> float | None:
        """When the first completion was admitted to the batch, on the monotonic clock; None if none was."""
        return min((each.admitted_at for each in self.completions if each.admitted_at is not None), default=None)

    @property
    def first_token_at(self) -> float | None:
        """When the first token was chosen, on the monotonic clock; None if none was."""
        return min((each.first_token_at for each in self.completions if each.first_token_at is not None), default=None)

    def _abort(self, error: ApiError) -> None:
        self._deltas.put_nowait(Delta(0, error=error))
        self._batcher.cancel(self.completions)  # at once: the delta may be read much later

    async def _wait_for_disconnect(self, receive: Receive) -> None:
        with suppress(OSError):
            while (await receive())["type"] != "http.disconnect":
                pass
        self._abort(errors.client_gone())
