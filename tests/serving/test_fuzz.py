from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.serving.client import ADMIN, Served, error_of, serving
from tests.serving.fakes import deployment

TEXT = {"model": "alpha:1", "prompt": "hello", "temperature": 0}
POSTS = ["/v1/chat/completions", "/v1/completions", "/api/v1/generate", "/v1/feedback"]
JSON = {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
def fuzzed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A deployment that gets arbitrary requests."""
    limits = {"max_body_bytes": 3000, "max_tokens": 16, "default_max_tokens": 8}
    with serving(deployment(**limits), tmp_path_factory.mktemp("fuzz")) as served:
        yield served


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
    """Return the id of an answer."""
    return served.requests[0].id if served.requests else served.ask("/v1/completions", TEXT).headers["x-request-id"]


def _check(served: Served, path: str, content: bytes) -> None:
    """Send ``content`` and check that the answer is well-formed and not a 5xx."""
    method, headers = ("PUT", ADMIN) if path.startswith("/admin") else ("POST", {})
    response = served.use(lambda client: client.request(method, path, content=content, headers={**JSON, **headers}))
    assert response.status_code < 500, response.text
    if response.status_code >= 400:
        error_of(response, response.status_code)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@pytest.mark.parametrize("path", [*POSTS, "/admin/experiment"])
@given(body=BODIES)
def test_any_json_is_answered_or_refused(fuzzed: Served, path: str, body: object) -> None:
    """Any JSON, NaN included, is answered without a 5xx and without a hang."""
    _check(fuzzed, path, json.dumps(body).encode())


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@pytest.mark.parametrize("path", [*POSTS, "/admin/experiment"])
@given(fields=st.dictionaries(st.sampled_from(FIELDS), LEAVES | st.lists(LEAVES, max_size=3), max_size=3))
def test_proper_requests_with_odd_fields(fuzzed: Served, path: str, fields: dict[str, object]) -> None:
    """A valid request with some arbitrary fields is answered or refused without a 5xx."""
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
    """Any bytes are refused without a 5xx and without a hang."""
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
