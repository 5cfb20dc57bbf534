from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from ftreg.serving import errors
from ftreg.serving.deployment import Limits
from tests.serving.client import ADMIN, Served, error_of, serving
from tests.serving.fakes import ENGINES, deployment, digest, options, variant

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


def test_api_keys_are_asked_for(tmp_path: Path) -> None:
    """If API keys are set, clients without one get only metrics; the administrator's token is not an API key."""
    with serving(deployment(), tmp_path, api_keys=("one", "two-three")) as served:
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
        metrics = served.ask("/metrics", method="GET").text
        assert 'ftreg_refused_total{code="invalid_api_key"} 25.0' in metrics.splitlines()
        assert served.ask("/v1/completions", TEXT, Authorization="Bearer one").status_code == 200
        assert served.ask("/v1/models", method="GET", Authorization="bearer one").status_code == 200
        assert served.ask("/metrics", method="GET").status_code == 200
        assert served.ask("/admin/experiment", method="GET", **ADMIN).status_code == 200
        assert [request.status for request in served.requests] == [200]


@pytest.mark.parametrize("key", ["zwei-schlüssel", "voilà", "鍵"])
def test_api_keys_may_have_any_characters(tmp_path: Path, key: str) -> None:
    """API keys are compared as UTF-8 bytes, even if the last byte looks like a space in Latin-1."""

    async def run(client):
        headers = [f"Bearer {key}".encode(), f"Bearer {key}".encode("utf-16-le").replace(b"\0", b"?")]
        return [
            await client.post("/v1/completions", json={**TEXT, "model": "bot"}, headers={"Authorization": header})
            for header in headers
        ]

    with serving(deployment(), tmp_path, api_keys=("one", key)) as served:
        known, unknown = served.use(run)
        assert known.status_code == 200
        error_of(unknown, 401, "invalid_api_key")
        assert [request.unit for request in served.requests] == [key]


@pytest.mark.parametrize("chunked", [False, True])
def test_large_bodies_are_refused(served: Served, chunked: bool) -> None:
    """A body beyond the limit is refused without being read to its end, with or without Content-Length."""
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
    """A body that is longer than its Content-Length is refused."""

    async def run(client):
        return await client.post("/v1/completions", content=b" " * 6000, headers={**JSON, "Content-Length": "10"})

    error_of(served.use(run), 413)


@pytest.mark.parametrize("path", POSTS)
@pytest.mark.parametrize(
    "kind", [None, "text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"]
)
def test_other_content_types_are_refused(served: Served, path: str, kind: str | None) -> None:
    """Content types that a web page can send across origins without asking are refused."""

    async def run(client):
        return await client.post(path, content=json.dumps(TEXT), headers={"Content-Type": kind} if kind else {})

    error_of(served.use(run), 415, "unsupported_media_type")


def test_prompts_and_answers_have_a_limit(served: Served) -> None:
    """Prompts and completions beyond the limits or the model's context are refused, and the refusals are recorded."""
    for path, body in (
        ("/v1/completions", {**TEXT, "prompt": "x" * 51}),
        ("/v1/completions", {**TEXT, "prompt": ["x", "x" * 51]}),
        ("/v1/completions", {**TEXT, "prompt": [5] * 51}),
        ("/v1/chat/completions", {**CHAT, "messages": [{"role": "user", "content": "x" * 51}]}),
        ("/v1/completions", {**TEXT, "prompt": "x" * 51, "stream": True}),
    ):
        error_of(served.ask(path, body), 400, "context_length_exceeded")
    assert [(request.status, request.error) for request in served.requests] == [(400, "context_length_exceeded")] * 5
    assert error_of(served.ask("/v1/completions", {**TEXT, "n": 9}), 400)["param"] == "n"
    assert error_of(served.ask("/v1/completions", {**TEXT, "prompt": ["a", "b", "c"], "n": 3}), 400)["param"] == "n"
    assert len(served.requests) == 5


def test_the_default_length_fits_the_context(served: Served) -> None:
    """A completion has the length asked for, or the default, up to the limit and to what the context leaves."""
    ENGINES[digest("a")].sharpness = 0.0
    how = {"temperature": 0}  # all logits equal: token 0 for ever
    assert served.ask("/v1/completions", {**TEXT, **how}).json()["usage"]["completion_tokens"] == 40
    assert served.ask("/v1/completions", {**TEXT, **how, "prompt": "x" * 50}).json()["usage"]["completion_tokens"] == 30
    assert served.ask("/v1/completions", {**TEXT, **how, "max_tokens": 60}).json()["usage"]["completion_tokens"] == 60
    more = served.ask("/v1/completions", {**TEXT, **how, "max_tokens": 100_000}).json()
    assert (more["usage"]["completion_tokens"], more["choices"][0]["finish_reason"]) == (60, "length")
    full = served.ask("/v1/completions", {**TEXT, **how, "prompt": "x" * 50, "max_tokens": 60}).json()
    assert full["usage"]["completion_tokens"] == 30


def test_a_prompt_leaves_room_for_a_token(tmp_path: Path) -> None:
    """A prompt that fills the context is refused; one that is a token shorter gets one token."""
    with options(context=20), serving(deployment(), tmp_path) as served:
        error_of(served.ask("/v1/completions", {**TEXT, "prompt": "x" * 20}), 400, "context_length_exceeded")
        answer = served.ask("/v1/completions", {**TEXT, "prompt": "x" * 19}).json()
        assert (answer["choices"][0]["text"], answer["usage"]["completion_tokens"]) == ("x", 1)


@pytest.mark.parametrize("prompt", ["", [[]], ["a", ""], [257], [2**40], [[1], [300]]])
def test_prompts_that_no_model_can_read_are_refused(served: Served, prompt: object) -> None:
    """Empty prompts and unknown tokens are refused before they reach the model."""
    assert error_of(served.ask("/v1/completions", {**TEXT, "prompt": prompt}), 400)["param"] == "prompt"
    assert not ENGINES[digest("a")].reads


def test_the_documented_limits_are_the_real_ones() -> None:
    """docs/serving-api.md lists every limit with its default."""
    text = (Path(__file__).parents[2] / "docs" / "serving-api.md").read_text(encoding="utf-8")
    listed = dict(re.findall(r"^\| `(\w+)` \| (\d+) \|", text, flags=re.MULTILINE))
    assert {name: float(value) for name, value in listed.items()} == Limits().model_dump()


def test_every_error_code_is_documented() -> None:
    """docs/serving-api.md lists each code that the application answers with."""
    text = (Path(__file__).parents[2] / "docs" / "serving-api.md").read_text(encoding="utf-8")
    sources = [file.read_text(encoding="utf-8") for file in Path(errors.__file__).parent.rglob("*.py")]
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
    """Unknown paths and methods are refused with the same error object as everything else."""
    response = served.ask(path, method=method)
    error_of(response, status)
    assert status != 405 or response.headers["allow"]


def test_what_breaks_unexpectedly_is_an_error_object(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """An unexpected exception becomes a 500 without its message, and the server continues."""

    def broken(prompt):
        raise ZeroDivisionError("innards")

    monkeypatch.setattr(served.pool.tokenizer("alpha:1"), "encode", broken)
    assert "innards" not in error_of(served.ask("/v1/completions", TEXT), 500, "internal_error")["message"]
    assert served.requests[-1].status == 500
    monkeypatch.undo()
    assert served.ask("/v1/completions", TEXT).status_code == 200
