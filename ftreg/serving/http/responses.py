"""HTTP responses: a whole answer, a stream of server-sent events, or an error."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Message, Receive, Scope, Send

from ftreg.serving.decoding.completion import Delta
from ftreg.serving.errors import ApiError
from ftreg.serving.http.exchange import Exchange
from ftreg.serving.http.replies import DONE, Choice, ReplyHead, StreamRenderer, TokenUsage, sse_event

_MIN_SEND_SECONDS = 1.0  # time that a chunk has to be sent even when the request's time is up


class Renderer(Protocol):
    """Renders a whole reply."""

    def reply(self, head: ReplyHead, choices: list[Choice], usage: TokenUsage) -> bytes:
        """Return the body of the response."""


async def whole_response(request: Request, exchange: Exchange, renderer: Renderer) -> Response:
    """Generate all completions and return them in one response."""
    texts: dict[int, str] = defaultdict(str)
    finishes: dict[int, str] = {}
    async with exchange:
        await exchange.open(request.receive)
        while (delta := await exchange.next()) is not None:
            texts[delta.index] += delta.text
            if delta.finish is not None:
                finishes[delta.index] = delta.finish
        choices = [Choice(texts[index], finishes[index]) for index in sorted(finishes)]
        body = renderer.reply(exchange.head, choices, exchange.usage)
    return Response(body, media_type="application/json")


def error_response(error: ApiError) -> Response:
    """Return the response for an error."""
    return Response(error.body(), error.status, headers=error.headers, media_type="application/json")


class EventStream(StreamingResponse):
    """A stream of server-sent events.

    The status is sent with the first token, so an error before it has a status of its own.

    Args:
        exchange: The request to answer.
        renderer: Renders the chunks.
        with_usage: Whether the stream ends with a chunk that has the token usage.
    """

    def __init__(self, exchange: Exchange, renderer: StreamRenderer, *, with_usage: bool) -> None:
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}  # the latter is for nginx
        super().__init__((), media_type="text/event-stream", headers=headers)  # ``__call__`` makes the content
        self._exchange = exchange
        self._renderer = renderer
        self._with_usage = with_usage
        self._head = renderer.stream_head(exchange.head) | ({"usage": None} if with_usage else {})
        self._begun: set[int] = set()

    async def __call__(self, _scope: Scope, receive: Receive, send: Send) -> None:
        """Send the stream; if the client does not read it in time, the exchange ends and the connection is closed."""
        async with self._exchange as exchange:
            await exchange.open(receive)
            first = await exchange.next()
            try:
                await self._send_all(first, self._with_deadline(send))
            except TimeoutError:
                exchange.close(408, "timeout")

    async def _send_all(self, delta: Delta | None, send: Send) -> None:
        """Send the chunks of ``delta`` and of all deltas after it."""
        exchange = self._exchange
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        try:
            while delta is not None:
                await _send(send, b"".join(map(sse_event, self._chunks(delta))))
                delta = await exchange.next()
            last = self._last(exchange)
        except ApiError as error:
            exchange.close(error.status, error.code)
            last = b"data: " + error.body() + b"\n\n"
        exchange.close()  # before the end is sent, since feedback on the answer may follow at once
        await _send(send, last, more=False)

    def _with_deadline(self, send: Send) -> Send:
        """Return ``send`` with a deadline: it raises ``TimeoutError`` when the request's time is up."""

        async def send_in_time(message: Message) -> None:
            async with asyncio.timeout(max(self._exchange.time_left, _MIN_SEND_SECONDS)):
                await send(message)

        return send_in_time

    def _chunks(self, delta: Delta) -> Iterator[Mapping[str, Any]]:
        if delta.index not in self._begun:
            self._begun.add(delta.index)
            if (choice := self._renderer.begin(delta.index)) is not None:
                yield {**self._head, "choices": [choice]}
        if delta.text:
            yield {**self._head, "choices": [self._renderer.piece(delta.index, delta.text)]}
        if delta.finish is not None:
            yield {**self._head, "choices": [self._renderer.end(delta.index, delta.finish)]}

    def _last(self, exchange: Exchange) -> bytes:
        if not self._with_usage:
            return DONE
        return sse_event({**self._head, "choices": [], "usage": exchange.usage.to_dict()}) + DONE


async def _send(send: Send, body: bytes, *, more: bool = True) -> None:
    await send({"type": "http.response.body", "body": body, "more_body": more})
