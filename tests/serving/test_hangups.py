from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from ftreg.serving.decoding.tokenizer import Tokenizer
from tests.serving.client import Connection, Served, error_of, events, serving
from tests.serving.fakes import ENGINES, HANG_SECONDS, deployment, digest, options, variant, wait_for

TEXT = {"model": "alpha:1", "prompt": "hello", "temperature": 0}
CHAT = {"model": "alpha:1", "messages": [{"role": "user", "content": "hello"}], "temperature": 0}


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    """One variant with one row and one place in the queue."""
    with serving(deployment(variant("alpha", "a"), batch=1, queue=1), tmp_path) as served:
        yield served


def _places(served: Served) -> int:
    """Count the completions that are queued or running."""
    return sum(load.total() for batcher in served.pool.batchers for load in batcher.loads())


def test_overload_is_429(served: Served) -> None:
    """A request that does not fit is refused at once with ``Retry-After``; those that fit are answered."""

    async def run(client):
        engine = ENGINES[digest("a")]
        engine.gate.clear()
        taken = []
        for number in range(2):
            taken.append(asyncio.create_task(client.post("/v1/completions", json=TEXT)))
            await asyncio.to_thread(wait_for, lambda number=number: _places(served) == number + 1)
        refused = [
            await client.post(path, json=body)
            for path, body in (("/v1/completions", TEXT), ("/v1/chat/completions", CHAT))
        ]
        refused.append(await client.post("/v1/completions", json={**TEXT, "stream": True}))
        engine.gate.set()
        return refused, await asyncio.gather(*taken)

    refused, answered = served.use(run)
    for response in refused:
        assert error_of(response, 429, "server_busy")["type"] == "rate_limit_error"
        assert int(response.headers["retry-after"]) > 0
    assert [response.status_code for response in answered] == [200, 200]
    assert sorted(request.status for request in served.requests) == [200, 200, 429, 429, 429]


@pytest.mark.parametrize("stream", [False, True])
def test_timeouts_free_the_slot(tmp_path: Path, stream: bool) -> None:
    """A request that is not answered in time is a 408, and its place is freed."""
    with serving(deployment(variant("alpha", "a"), batch=1, queue=0, timeout=0.2), tmp_path) as served:
        engine = ENGINES[digest("a")]
        engine.gate.clear()
        response = served.ask("/v1/completions", {**TEXT, "stream": stream})
        error_of(response, 408, "timeout")
        engine.gate.set()
        wait_for(served.idle)
        assert [(request.status, request.error) for request in served.requests] == [(408, "timeout")]


def test_a_client_that_does_not_read_is_given_up(tmp_path: Path) -> None:
    """A stream that its client does not read ends when its time is up: its place is freed, and it is recorded."""

    async def run() -> None:
        body = json.dumps({**TEXT, "prompt": "x" * 400, "stream": True}).encode()
        connection = Connection(served.app, "/v1/completions", body, room=3)
        await connection.end()
        assert connection.sent.qsize() == 3
        engine.gate.set()
        await asyncio.to_thread(wait_for, served.idle)

    with serving(deployment(variant("alpha", "a"), batch=1, queue=0, timeout=1.5), tmp_path) as served:
        engine = ENGINES[digest("a")]
        engine.hold_after = 20
        asyncio.run(run())
        assert [(request.status, request.error) for request in served.requests] == [(408, "timeout")]


def test_a_stream_that_times_out_ends_with_an_error(tmp_path: Path) -> None:
    """If the status has been sent, the error is the last event, without DONE."""
    with serving(deployment(variant("alpha", "a"), timeout=2.0), tmp_path) as served:
        engine = ENGINES[digest("a")]
        engine.hold_after = 3
        *chunks, error = events(served.ask("/v1/completions", {**TEXT, "stream": True}).text)
        assert error["error"]["code"] == "timeout"
        assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == "hel"
        assert (served.requests[-1].status, served.requests[-1].completion_tokens) == (408, 3)


def test_a_stream_whose_engine_fails_ends_with_an_error(tmp_path: Path) -> None:
    """The error of the engine is the last event of the stream."""
    with serving(deployment(variant("alpha", "a")), tmp_path) as served:
        engine = ENGINES[digest("a")]
        engine.hold_after = 1

        async def run() -> list[bytes]:
            connection = Connection(served.app, "/v1/chat/completions", json.dumps({**CHAT, "stream": True}).encode())
            assert await connection.start() == 200
            engine.fail = RuntimeError("broken")
            engine.gate.set()
            await connection.end()
            return [await connection.piece() for _ in range(connection.sent.qsize())]

        pieces = asyncio.run(run())
        assert json.loads(pieces[-1].removeprefix(b"data: "))["error"]["code"] == "engine_error"
        assert served.requests[-1].status == 500


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_hangs_up_stops_its_answer(served: Served, stream: bool) -> None:
    """When the client disconnects, generation stops, streamed or not, and the place is freed."""

    async def run() -> None:
        body = json.dumps({**TEXT, "prompt": "x" * 50, "stream": stream}).encode()
        connection = Connection(served.app, "/v1/completions", body)
        await asyncio.to_thread(wait_for, lambda: len(engine.steps) == 5)  # it is held within the last of them
        connection.disconnect()
        await connection.end()
        engine.gate.set()
        await asyncio.to_thread(wait_for, served.idle)

    engine = ENGINES[digest("a")]
    engine.hold_after = 5
    asyncio.run(run())
    assert len(engine.steps) <= 5
    [request] = served.requests
    assert (request.status, request.error) == (499, "client_closed_request")
    assert served.ask("/v1/completions", TEXT).status_code == 200


def test_a_client_that_hangs_up_while_it_waits_leaves_the_queue(served: Served) -> None:
    """When the client of a queued request disconnects, the request leaves the queue."""

    async def run() -> None:
        engine = ENGINES[digest("a")]
        engine.gate.clear()
        first = Connection(served.app, "/v1/completions", json.dumps(TEXT).encode())
        await asyncio.to_thread(wait_for, lambda: _places(served) == 1)
        second = Connection(served.app, "/v1/completions", json.dumps(TEXT).encode())
        await asyncio.to_thread(wait_for, lambda: _places(served) == 2)
        second.disconnect()
        await second.end()
        assert _places(served) == 1
        engine.gate.set()
        assert await first.start() == 200
        await first.end()

    asyncio.run(run())
    assert len(ENGINES[digest("a")].reads) == 1


def test_a_server_that_gives_up_on_a_request_frees_its_place(served: Served) -> None:
    """When the server cancels a request's task, generation stops and the request is recorded."""

    async def run() -> None:
        engine = ENGINES[digest("a")]
        engine.gate.clear()
        connection = Connection(served.app, "/v1/completions", json.dumps(TEXT).encode())
        await asyncio.to_thread(wait_for, lambda: _places(served) == 1)
        connection.task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await connection.end()
        engine.gate.set()
        await asyncio.to_thread(wait_for, served.idle)

    asyncio.run(run())
    assert [request.status for request in served.requests] == [499]


def test_a_body_that_never_comes_is_408(tmp_path: Path) -> None:
    """A body that does not arrive in time is a 408."""

    async def run() -> int:
        connection = Connection(served.app, "/v1/completions", b"{", complete=False)
        return await connection.start()

    with serving(deployment(timeout=0.1), tmp_path) as served:
        assert asyncio.run(run()) == 408


def test_a_client_that_hangs_up_before_its_body_is_complete(served: Served) -> None:
    """A client that disconnects within its body is never routed."""

    async def run() -> None:
        connection = Connection(served.app, "/v1/completions", b"{", complete=False)
        connection.disconnect()
        await connection.end()

    asyncio.run(run())
    assert not served.requests


def test_long_prompts_do_not_hold_up_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While a long prompt is encoded, other requests are answered."""
    encode, release, threads = Tokenizer.encode, threading.Event(), set()

    def slow(self, prompt):
        if len(prompt) > 1000:
            threads.add(threading.current_thread())
            release.wait(HANG_SECONDS)
        return encode(self, prompt)

    monkeypatch.setattr(Tokenizer, "encode", slow)

    async def run(client: httpx.AsyncClient) -> list[int]:
        long = asyncio.create_task(client.post("/v1/completions", json={**TEXT, "prompt": "x" * 3000}))
        await asyncio.to_thread(wait_for, lambda: threads)
        short = await client.post("/v1/completions", json=TEXT)
        release.set()
        return [short.status_code, (await long).status_code]

    with options(context=8000), serving(deployment(variant("alpha", "a"), max_prompt_tokens=4000), tmp_path) as served:
        assert served.use(run) == [200, 200]
    assert threading.main_thread() not in threads


@pytest.mark.parametrize(("messages", "aside"), [(2, False), (200, True)])
def test_long_chats_do_not_hold_up_others(
    served: Served, monkeypatch: pytest.MonkeyPatch, messages: int, aside: bool
) -> None:
    """A chat of many messages is encoded in a thread, even if the messages are empty."""
    encode, threads = Tokenizer.encode, set()

    def watched(self, prompt):
        threads.add(threading.current_thread())
        return encode(self, prompt)

    monkeypatch.setattr(Tokenizer, "encode", watched)
    chat = {**CHAT, "messages": [*[{"role": "user", "content": ""}] * (messages - 1), *CHAT["messages"]]}
    assert served.ask("/v1/chat/completions", chat).status_code == 200
    assert (threading.main_thread() not in threads) == aside
