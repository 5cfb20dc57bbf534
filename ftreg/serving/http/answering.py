"""How exchanges answer: in one piece, or as a stream of server-sent events."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from ftreg.serving.decoding.generation import Event
from ftreg.serving.errors import ApiError
from ftreg.serving.http import replies
from ftreg.serving.http.exchange import Exchange
from ftreg.serving.http.replies import Choice, Form, Head, Usage

_PATIENCE = 1.0  # seconds that a piece may take to be sent when the request's time is up


class Whole(Protocol):
    """The form of a whole reply."""

    def reply(self, head: Head, choices: list[Choice], usage: Usage) -> bytes:
        """Write it."""


async def answer(request: Request, exchange: Exchange, form: Whole) -> Response:
    """Answer in one piece."""
    texts: dict[int, str] = defaultdict(str)
    finishes: dict[int, str] = {}
    async with exchange:
        await exchange.open(request.receive)
        while (event := await exchange.next()) is not None:
            texts[event.index] += event.text
            if event.finish is not None:
                finishes[event.index] = event.finish
        choices = [Choice(texts[index], finishes[index]) for index in sorted(finishes)]
        body = form.reply(exchange.head, choices, exchange.usage)
    return Response(body, media_type="application/json")


class Stream(Response):
    """Answers as a stream. The status is sent with the first token, so that what fails before has one of its own.

    Args:
        exchange: What is answered.
        form: Of the chunks.
        with_usage: Whether the stream ends with its usage.
    """

    def __init__(self, exchange: Exchange, form: Form, *, with_usage: bool) -> None:
        self.background = None
        self.status_code = 200
        self.raw_headers = [
            (b"content-type", b"text/event-stream; charset=utf-8"),
            (b"cache-control", b"no-store"),
            (b"x-accel-buffering", b"no"),  # tells nginx not to hold pieces back
        ]
        self._exchange = exchange
        self._form = form
        self._with_usage = with_usage
        self._head = form.stream_head(exchange.head) | ({"usage": None} if with_usage else {})
        self._begun: set[int] = set()

    async def __call__(self, _scope: Scope, receive: Receive, send: Send) -> None:
        """Send the stream; a client that does not read it in time is given up, and the server closes its connection."""
        async with self._exchange as exchange:
            await exchange.open(receive)
            event = await exchange.next()
            try:
                await self._send_all(event, self._in_time(send))
            except TimeoutError:
                exchange.close(408, "timeout")

    async def _send_all(self, event: Event | None, send: Send) -> None:
        """Send ``event``, and all that follow."""
        exchange = self._exchange
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        try:
            while event is not None:
                await _send(send, b"".join(map(replies.event, self._chunks(event))))
                event = await exchange.next()
            last = self._last(exchange)
        except ApiError as error:
            exchange.close(error.status, error.code)
            last = b"data: " + error.body() + b"\n\n"
        exchange.close()  # before the end is sent: feedback on the answer may follow at once
        await _send(send, last, more=False)

    def _in_time(self, send: Send) -> Send:
        """``send``, but it raises ``TimeoutError`` when the request's time is up."""

        async def send_in_time(message: Message) -> None:
            async with asyncio.timeout(max(self._exchange.left, _PATIENCE)):
                await send(message)

        return send_in_time

    def _chunks(self, event: Event) -> Iterator[Mapping[str, Any]]:
        if event.index not in self._begun:
            self._begun.add(event.index)
            if (choice := self._form.begin(event.index)) is not None:
                yield {**self._head, "choices": [choice]}
        if event.text:
            yield {**self._head, "choices": [self._form.piece(event.index, event.text)]}
        if event.finish is not None:
            yield {**self._head, "choices": [self._form.end(event.index, event.finish)]}

    def _last(self, exchange: Exchange) -> bytes:
        if not self._with_usage:
            return replies.DONE
        return replies.event({**self._head, "choices": [], "usage": exchange.usage.json()}) + replies.DONE


async def _send(send: Send, body: bytes, *, more: bool = True) -> None:
    await send({"type": "http.response.body", "body": body, "more_body": more})
