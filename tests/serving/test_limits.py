from __future__ import annotations

import asyncio
import json
import re
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ftreg.serving import errors
from ftreg.serving.codec import Codec
from ftreg.serving.deployment import Limits
from tests.serving.client import ADMIN, Connection, Served, error_of, events, serving
from tests.serving.fakes import ENGINES, deployment, digest, options, variant, wait_for

TEXT = {"model": "alpha:1", "prompt": "hello", "temperature": 0}
CHAT = {"model": "alpha:1", "messages": [{"role": "user", "content": "hello"}], "temperature": 0}
POSTS = ["/v1/chat/completions", "/v1/completions", "/api/v1/generate", "/v1/feedback"]
JSON = {"Content-Type": "application/json"}


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    """One variant with narrow limits."""
    limits = {
        "max_body_bytes": 5000,
        "max_prompt_tokens": 50,
        "max_tokens": 60,
        "default_max_tokens": 40,
        "batch": 1,
        "queue": 1,
    }
    with options(context=80), serving(deployment(variant("alpha", "a"), **limits), tmp_path) as served:
        yield served


@pytest.fixture(scope="module")
def fuzzed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A deployment that is asked all sorts of things."""
    limits = {"max_body_bytes": 3000, "max_tokens": 16, "default_max_tokens": 8}
    with serving(deployment(**limits), tmp_path_factory.mktemp("fuzz")) as served:
        yield served


def test_api_keys_are_asked_for(tmp_path: Path) -> None:
    """With keys, clients without one of them get nothing but metrics; the administrator's token is no such key."""
    with serving(deployment(), tmp_path, api_keys=("one", "zwei-schlüssel")) as served:
        for headers in (
            {},
            {"Authorization": "Bearer two"},
            {"Authorization": "one"},
            {"Authorization": "Bearer "},
            ADMIN,
        ):
            for path in POSTS:
                response = served.ask(path, TEXT, **headers)
                assert error_of(response, 401, "invalid_api_key")["type"] == "authentication_error"
                assert response.headers["www-authenticate"] == "Bearer"
            error_of(served.ask("/v1/models", method="GET", **headers), 401)
        assert served.ask("/v1/completions", TEXT, Authorization="Bearer one").status_code == 200
        assert served.ask("/v1/models", method="GET", Authorization="bearer one").status_code == 200
        assert served.ask("/metrics", method="GET").status_code == 200
        assert served.ask("/admin/experiment", method="GET", **ADMIN).status_code == 200
        assert [request.status for request in served.requests] == [200]


@pytest.mark.parametrize("chunked", [False, True])
def test_large_bodies_are_refused(served: Served, chunked: bool) -> None:
    """A body beyond the limit is refused, whether or not it says its length, and not read to its end."""
    read = 0

    async def pieces():
        nonlocal read
        for _ in range(1000):
            read += 1000
            yield b" " * 1000

    async def run(client):
        content = pieces() if chunked else b" " * 5001
        return await client.post("/v1/completions", content=content, headers=JSON)

    error_of(served.use(run), 413, "request_too_large")
    assert read <= 6000


def test_bodies_that_lie_about_their_length_are_refused(served: Served) -> None:
    """A declared length is not believed."""

    async def run(client):
        return await client.post("/v1/completions", content=b" " * 6000, headers={**JSON, "Content-Length": "10"})

    error_of(served.use(run), 413)


@pytest.mark.parametrize("path", POSTS)
@pytest.mark.parametrize(
    "kind", [None, "text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"]
)
def test_other_content_types_are_refused(served: Served, path: str, kind: str | None) -> None:
    """What a web page may send to a local server without being asked is not taken for JSON."""

    async def run(client):
        return await client.post(path, content=json.dumps(TEXT), headers={"Content-Type": kind} if kind else {})

    error_of(served.use(run), 415, "unsupported_media_type")


def test_prompts_and_answers_have_a_limit(served: Served) -> None:
    """The server's limits and the model's context bound prompt and answer, and the refusals are on record."""
    for path, body in (
        ("/v1/completions", {**TEXT, "prompt": "x" * 51}),
        ("/v1/completions", {**TEXT, "prompt": ["x", "x" * 51]}),
        ("/v1/completions", {**TEXT, "prompt": [5] * 51}),
        ("/v1/completions", {**TEXT, "prompt": "x" * 30, "max_tokens": 51}),
        ("/v1/chat/completions", {**CHAT, "messages": [{"role": "user", "content": "x" * 51}]}),
        ("/v1/completions", {**TEXT, "prompt": "x" * 51, "stream": True}),
    ):
        error_of(served.ask(path, body), 400, "context_length_exceeded")
    assert [(request.status, request.error) for request in served.requests] == [(400, "context_length_exceeded")] * 6
    assert error_of(served.ask("/v1/completions", {**TEXT, "max_tokens": 61}), 400)["param"] == "max_tokens"
    assert error_of(served.ask("/v1/completions", {**TEXT, "n": 9}), 400)["param"] == "n"
    assert error_of(served.ask("/v1/completions", {**TEXT, "prompt": ["a", "b", "c"], "n": 3}), 400)["param"] == "n"
    assert len(served.requests) == 6


def test_the_default_length_fits_the_context(served: Served) -> None:
    """Without ``max_tokens`` an answer has the server's default, or what the context leaves."""
    ENGINES[digest("a")].sharpness = 0.0
    how = {"temperature": 0}  # all logits equal: token 0 for ever
    assert served.ask("/v1/completions", {**TEXT, **how}).json()["usage"]["completion_tokens"] == 40
    assert served.ask("/v1/completions", {**TEXT, **how, "prompt": "x" * 50}).json()["usage"]["completion_tokens"] == 30
    assert served.ask("/v1/completions", {**TEXT, **how, "max_tokens": 60}).json()["usage"]["completion_tokens"] == 60


def test_a_prompt_leaves_room_for_a_token(tmp_path: Path) -> None:
    """A prompt that fills the context is refused; one token shorter, it gets a token."""
    with options(context=20), serving(deployment(), tmp_path) as served:
        error_of(served.ask("/v1/completions", {**TEXT, "prompt": "x" * 20}), 400, "context_length_exceeded")
        answer = served.ask("/v1/completions", {**TEXT, "prompt": "x" * 19}).json()
        assert (answer["choices"][0]["text"], answer["usage"]["completion_tokens"]) == ("x", 1)


@pytest.mark.parametrize("prompt", ["", [[]], ["a", ""], [257], [2**40], [[1], [300]]])
def test_prompts_that_no_model_can_read_are_refused(served: Served, prompt: object) -> None:
    """Empty prompts and tokens that the model does not have are refused before they reach it."""
    assert error_of(served.ask("/v1/completions", {**TEXT, "prompt": prompt}), 400)["param"] == "prompt"
    assert not ENGINES[digest("a")].reads


def test_overload_is_429(served: Served) -> None:
    """What finds no place is refused at once with when to come again; what found one is answered."""

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


def _places(served: Served) -> int:
    """How many answers wait or are written."""
    return sum(load.total() for batcher in served.fleet.batchers for load in batcher.loads())


@pytest.mark.parametrize("stream", [False, True])
def test_timeouts_free_the_slot(tmp_path: Path, stream: bool) -> None:
    """An answer that is not complete in time is a 408, and its place is free at once for the next."""
    with serving(deployment(variant("alpha", "a"), batch=1, queue=0, timeout=0.2), tmp_path) as served:
        engine = ENGINES[digest("a")]
        engine.gate.clear()
        response = served.ask("/v1/completions", {**TEXT, "stream": stream})
        error_of(response, 408, "timeout")
        engine.gate.set()
        wait_for(served.idle)
        assert served.ask("/v1/completions", TEXT).status_code == 200
        assert [(request.status, request.error) for request in served.requests] == [(408, "timeout"), (200, None)]


def test_a_stream_that_fails_ends_with_an_error(tmp_path: Path) -> None:
    """When the status is already sent, the last event is the error, and there is no DONE."""
    with serving(deployment(variant("alpha", "a"), timeout=0.3), tmp_path) as served:
        engine = ENGINES[digest("a")]
        engine.delay = 0.02
        *chunks, error = events(served.ask("/v1/completions", {**TEXT, "prompt": "x" * 200, "stream": True}).text)
        assert error["error"]["code"] == "timeout"
        assert 1 < len(chunks) < 200
        assert served.requests[-1].status == 408
        assert 0 < served.requests[-1].completion_tokens < 200
        wait_for(served.idle)

        async def run() -> list[bytes]:
            connection = Connection(served.app, "/v1/chat/completions", json.dumps({**CHAT, "stream": True}).encode())
            assert await connection.start() == 200
            engine.fail = RuntimeError("broken")
            await connection.end()
            return [await connection.piece() for _ in range(connection.sent.qsize())]

        pieces = asyncio.run(run())
        assert json.loads(pieces[-1].removeprefix(b"data: "))["error"]["code"] == "engine_error"
        assert served.requests[-1].status == 500


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_hangs_up_stops_its_answer(served: Served, stream: bool) -> None:
    """An answer that nobody waits for any more is not written on, plain or streamed, and the place is free."""

    async def run() -> None:
        body = json.dumps({**TEXT, "prompt": "x" * 50, "stream": stream}).encode()
        connection = Connection(served.app, "/v1/completions", body)
        if stream:
            assert await connection.start() == 200
        else:
            await asyncio.to_thread(wait_for, lambda: engine.steps)
        connection.hang_up()
        await connection.end()
        await asyncio.to_thread(wait_for, served.idle)

    engine = ENGINES[digest("a")]
    engine.delay = 0.01
    asyncio.run(run())
    assert len(engine.steps) < 40
    [request] = served.requests
    assert (request.status, request.error) == (499, "client_closed_request")
    engine.delay = 0.0
    assert served.ask("/v1/completions", TEXT).status_code == 200


def test_a_client_that_hangs_up_while_it_waits_leaves_the_queue(served: Served) -> None:
    """A request that still waits for a place gives up its turn."""

    async def run() -> None:
        engine = ENGINES[digest("a")]
        engine.gate.clear()
        first = Connection(served.app, "/v1/completions", json.dumps(TEXT).encode())
        await asyncio.to_thread(wait_for, lambda: _places(served) == 1)
        second = Connection(served.app, "/v1/completions", json.dumps(TEXT).encode())
        await asyncio.to_thread(wait_for, lambda: _places(served) == 2)
        second.hang_up()
        await second.end()
        assert _places(served) == 1
        engine.gate.set()
        assert await first.start() == 200
        await first.end()

    asyncio.run(run())
    assert len(ENGINES[digest("a")].reads) == 1


def test_a_server_that_gives_up_on_a_request_frees_its_place(served: Served) -> None:
    """When the task that serves a request is cancelled, its answer ends and is on record."""

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
    """A client that begins a request and sends no more does not hold the server for ever."""

    async def run() -> int:
        connection = Connection(served.app, "/v1/completions", b"")
        connection._messages.get_nowait()
        connection._messages.put_nowait({"type": "http.request", "body": b"{", "more_body": True})
        return await connection.start()

    with serving(deployment(timeout=0.1), tmp_path) as served:
        assert asyncio.run(run()) == 408


def test_a_client_that_hangs_up_before_its_body_is_complete(served: Served) -> None:
    """Nothing is routed, and nothing breaks."""

    async def run() -> None:
        connection = Connection(served.app, "/v1/completions", b"")
        connection._messages.get_nowait()
        connection.hang_up()
        await connection.end()

    asyncio.run(run())
    assert not served.requests


def test_long_prompts_do_not_hold_up_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While a long prompt is encoded, other requests are answered."""
    encode, release, threads = Codec.encode, threading.Event(), set()

    def slow(self, prompt):
        if len(prompt) > 1000:
            threads.add(threading.current_thread())
            release.wait(10)
        return encode(self, prompt)

    monkeypatch.setattr(Codec, "encode", slow)

    async def run(client: httpx.AsyncClient) -> list[int]:
        long = asyncio.create_task(client.post("/v1/completions", json={**TEXT, "prompt": "x" * 3000}))
        await asyncio.to_thread(wait_for, lambda: threads)
        short = await client.post("/v1/completions", json=TEXT)
        release.set()
        return [short.status_code, (await long).status_code]

    with options(context=8000), serving(deployment(variant("alpha", "a"), max_prompt_tokens=4000), tmp_path) as served:
        assert served.use(run) == [200, 200]
    assert threading.main_thread() not in threads


def test_the_documented_limits_are_the_real_ones() -> None:
    """docs/serving-api.md lists every limit with its default."""
    text = (Path(__file__).parents[2] / "docs" / "serving-api.md").read_text(encoding="utf-8")
    listed = dict(re.findall(r"^\| `(\w+)` \| (\d+) \|", text, flags=re.MULTILINE))
    assert {name: float(value) for name, value in listed.items()} == Limits().model_dump()


def test_every_error_code_is_documented() -> None:
    """docs/serving-api.md lists each code that the application answers with."""
    text = (Path(__file__).parents[2] / "docs" / "serving-api.md").read_text(encoding="utf-8")
    sources = [file.read_text(encoding="utf-8") for file in Path(errors.__file__).parent.glob("*.py")]
    codes = {code for source in sources for code in re.findall(r'code(?:: str)? ?= ?"(\w+)"', source)}
    assert len(codes) > 15
    assert not [code for code in codes - {"client_closed_request"} if f"`{code}`" not in text]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/", 404), ("GET", "/v1", 404), ("POST", "/v1/embeddings", 404), ("GET", "/v1/models/", 404),
        ("POST", "/v2/x", 404),
        ("GET", "/v1/completions", 405), ("DELETE", "/v1/models", 405), ("PUT", "/v1/feedback", 405),
        ("OPTIONS", "/v1/models", 405),
        ("POST", "/admin/experiment", 405), ("POST", "/metrics", 405), ("BREW", "/v1/models", 405),
    ],
)  # fmt: skip
def test_unknown_paths_and_methods(served: Served, method: str, path: str, status: int) -> None:
    """Paths and methods that are not there are refused in the same form as all else."""
    response = served.ask(path, method=method)
    error_of(response, status)
    assert status != 405 or response.headers["allow"]


def test_what_breaks_unexpectedly_is_an_error_object(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """A defect gives a 500 in the same form, without its innards, and the server goes on."""

    def broken(prompt):
        raise ZeroDivisionError("innards")

    monkeypatch.setattr(served.fleet.codec("alpha:1"), "encode", broken)
    assert "innards" not in error_of(served.ask("/v1/completions", TEXT), 500, "internal_error")["message"]
    assert served.requests[-1].status == 500
    monkeypatch.undo()
    assert served.ask("/v1/completions", TEXT).status_code == 200


LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.just("bot")
VALUES = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4)
)
FIELDS = [
    "model", "model_id", "prompt", "messages", "max_tokens", "temperature", "top_p", "stop", "seed", "n", "stream",
    "stream_options", "user", "tools", "logprobs", "best_of", "role", "content", "score", "comment", "weights",
]  # fmt: skip
BODIES = VALUES | st.dictionaries(st.sampled_from(FIELDS), VALUES, max_size=8)


def fuzzed_id(served: Served) -> str:
    """The id of an answer."""
    return served.requests[0].id if served.requests else served.ask("/v1/completions", TEXT).headers["x-request-id"]


def _check(served: Served, path: str, content: bytes) -> None:
    """Send ``content``; whatever it is, the answer is proper and no 5xx."""
    method, headers = ("PUT", ADMIN) if path.startswith("/admin") else ("POST", {})
    response = served.use(lambda client: client.request(method, path, content=content, headers={**JSON, **headers}))
    assert response.status_code < 500, response.text
    if response.status_code >= 400:
        error_of(response, response.status_code)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@pytest.mark.parametrize("path", [*POSTS, "/admin/experiment"])
@given(body=BODIES)
def test_any_json_is_answered_or_refused(fuzzed: Served, path: str, body: object) -> None:
    """Whatever JSON comes, NaN and all: no 5xx, no hang."""
    _check(fuzzed, path, json.dumps(body).encode())


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@pytest.mark.parametrize("path", [*POSTS, "/admin/experiment"])
@given(fields=st.dictionaries(st.sampled_from(FIELDS), LEAVES | st.lists(LEAVES, max_size=3), max_size=3))
def test_proper_requests_with_odd_fields(fuzzed: Served, path: str, fields: dict[str, object]) -> None:
    """A proper request of which some fields are not gets as far as its fields allow, and no further."""
    proper = {
        "model": "bot", "prompt": "hi", "messages": [{"role": "user", "content": "hi"}], "score": 1,
        "request_id": fuzzed_id(fuzzed),
        "weights": {"alpha:1": 1},
    }  # fmt: skip
    _check(fuzzed, path, json.dumps({**proper, **fields}).encode())


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@pytest.mark.parametrize("path", [*POSTS, "/admin/experiment"])
@given(
    body=st.binary(max_size=60)
    | st.text(max_size=40).map(lambda text: ('{"prompt":"' + text).encode("utf-8", "surrogatepass"))
)
def test_any_bytes_are_refused(fuzzed: Served, path: str, body: bytes) -> None:
    """Whatever bytes come: no 5xx, no hang."""
    _check(fuzzed, path, body)


@pytest.mark.parametrize("path", [*POSTS, "/admin/experiment"])
@pytest.mark.parametrize(
    "body",
    [
        b"", b"[" * 2900, b'{"a":' * 500, b'{"model":"bot","prompt":"\\ud83d"}', b'{"prompt":"\xed\xa0\x80"}',
        b"\x00", b"\xef\xbb\xbf{}",
        b'{"prompt":"\\u0000","model":"bot"}', b'{"model":"bot","prompt":"a","temperature":NaN,"x":-Infinity}',
        b'{"x":1e400}',
        b'{"model":"bot","prompt":"a","user":"\\u0000"}', b'{"model":"bot","prompt":"a","model":5}', b"{'model': 1}",
    ],
)  # fmt: skip
def test_nasty_bodies(fuzzed: Served, path: str, body: bytes) -> None:
    """Deep nesting, lone surrogates, invalid UTF-8, NaN, byte-order marks and NULs are answered or refused."""
    _check(fuzzed, path, body)
