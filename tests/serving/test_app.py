from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.serving.client import ADMIN, Connection, Served, error_of, events, serving
from tests.serving.fakes import BASE, ENGINES, deployment, digest, options, variant, wait_for

HELLO = {"model": "bot", "messages": [{"role": "user", "content": "hello"}], "temperature": 0}
TEXT = {"model": "bot", "prompt": "hello", "temperature": 0}
STREAM = {"stream": True, "stream_options": {"include_usage": True}}


def test_a_chat_is_answered_in_the_form_of_openai(served: Served) -> None:
    """The reply to a chat has OpenAI's keys, the version that answered, and the token usage."""
    response = served.ask("/v1/chat/completions", {**HELLO, "user": "u"})
    assert response.status_code == 200
    content = response.json()
    assert content.pop("id") == f"chatcmpl-{response.headers['x-request-id']}"
    assert content.pop("created") > 1_700_000_000
    ref, answered = response.headers["x-ftreg-variant"], response.headers["x-ftreg-digest"]
    assert answered == digest(ref[0])
    assert response.headers["x-ftreg-experiment"] == "trial"
    assert content == {
        "object": "chat.completion",
        "model": ref,
        "system_fingerprint": answered,
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "hello", "refusal": None},
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": {"prompt_tokens": 5, "completion_tokens": 6, "total_tokens": 11},
    }


def test_a_chat_that_is_cut_says_so(served: Served) -> None:
    """An answer of as many tokens as were asked for ends with ``length``, under either name of the limit."""
    for field in ("max_tokens", "max_completion_tokens"):
        [choice] = served.ask("/v1/chat/completions", {**HELLO, field: 2}).json()["choices"]
        assert (choice["message"]["content"], choice["finish_reason"]) == ("he", "length")


def test_completions_of_several_prompts(served: Served) -> None:
    """Each prompt is answered n times, in order, and the prompts' tokens count once."""
    content = served.ask("/v1/completions", {**TEXT, "prompt": ["ab", "cde"], "n": 2, "max_tokens": 2}).json()
    assert content["object"] == "text_completion"
    assert content["id"].startswith("cmpl-")
    assert [(choice["index"], choice["text"], choice["finish_reason"]) for choice in content["choices"]] == [
        (0, "ab", "length"), (1, "ab", "length"), (2, "cd", "length"), (3, "cd", "length"),
    ]  # fmt: skip
    assert content["usage"] == {"prompt_tokens": 5, "completion_tokens": 8, "total_tokens": 13}
    assert served.ask("/v1/completions", {**TEXT, "prompt": [[104, 105]]}).json()["choices"][0]["text"] == "hi"


def test_a_chat_as_a_stream(served: Served) -> None:
    """The pieces joined are the answer; the role comes first, then the text, the end, the usage, and DONE."""
    response = served.ask("/v1/chat/completions", {**HELLO, **STREAM, "messages": [{"role": "user", "content": "hé!"}]})
    assert response.headers["content-type"].startswith("text/event-stream")
    assert response.headers["x-ftreg-variant"]
    *chunks, usage, done = events(response.text)
    assert done == "[DONE]"
    assert all(chunk["object"] == "chat.completion.chunk" and chunk["usage"] is None for chunk in chunks)
    assert len({chunk["id"] for chunk in (*chunks, usage)}) == 1
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    assert deltas[0] == {"role": "assistant", "content": ""}
    assert [delta["content"] for delta in deltas[1:-1]] == ["h", "é", "!"]
    assert deltas[-1] == {}
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [None] * 4 + ["stop"]
    assert usage["choices"] == []
    assert usage["usage"] == {"prompt_tokens": 4, "completion_tokens": 5, "total_tokens": 9}


def test_a_stream_of_several_answers(served: Served) -> None:
    """The completions of a stream are distinguished by index; usage is sent only if it was requested."""
    response = served.ask("/v1/completions", {**TEXT, "n": 2, "stream": True})
    *chunks, done = events(response.text)
    assert done == "[DONE]"
    for index in (0, 1):
        mine = [chunk["choices"][0] for chunk in chunks if chunk["choices"][0]["index"] == index]
        assert "".join(choice["text"] for choice in mine) == "hello"
        assert mine[-1]["finish_reason"] == "stop"
    assert not any("usage" in chunk for chunk in chunks)


def test_pieces_are_sent_as_they_are_written(served: Served) -> None:
    """The first piece of a stream arrives before the second token is generated."""

    async def run() -> None:
        connection = Connection(served.app, "/v1/completions", b'{"model":"alpha:1","prompt":"abc","stream":true}')
        assert await connection.start() == 200
        assert b'"text":"a"' in await connection.piece()  # while the engine is held after the first token
        engine.gate.set()
        await connection.end()

    engine = ENGINES[digest("a")]
    engine.hold_after = 1
    asyncio.run(run())


@pytest.mark.parametrize("stream", [True, False])
def test_the_record_is_written_before_the_answer_is_complete(served: Served, stream: bool) -> None:
    """A request is recorded before its answer ends, so that feedback can follow at once."""
    recorded: list[int] = []

    def watch(message: Mapping[str, Any]) -> None:
        if message["type"] == "http.response.body" and not message.get("more_body"):
            recorded.append(len(served.requests))

    async def run() -> None:
        connection = Connection(served.app, "/v1/completions", json.dumps({**TEXT, "stream": stream}).encode())
        connection.watch = watch
        await connection.end()

    asyncio.run(run())
    assert recorded == [1]


def test_generate_has_its_own_format(served: Served) -> None:
    """A prompt alone is enough; the reply has the version that answered and the id for feedback."""
    response = served.ask("/api/v1/generate", {"prompt": "hello", "temperature": 0, "max_tokens": 3})
    content = response.json()
    assert content == {
        "text": "hel",
        "finish_reason": "length",
        "model_id": "bot",
        "variant": response.headers["x-ftreg-variant"],
        "digest": response.headers["x-ftreg-digest"],
        "request_id": response.headers["x-request-id"],
        "usage": {"prompt_tokens": 5, "completion_tokens": 3, "total_tokens": 8},
    }
    pinned = served.ask("/api/v1/generate", {"prompt": "hello", "model_id": "beta:1"}).json()
    assert (pinned["model_id"], pinned["variant"]) == ("beta:1", "beta:1")
    pinned = served.ask("/api/v1/generate", {"prompt": "hello", "model": "beta:1"}).json()
    assert (pinned["model_id"], pinned["variant"]) == ("beta:1", "beta:1")
    both = {"prompt": "hello", "model": "beta:1", "model_id": "alpha:1"}
    assert error_of(served.ask("/api/v1/generate", both), 400)["param"] == "model_id"


def test_sampling_is_repeatable_with_a_seed(served: Served) -> None:
    """The same seed gives the same answer on the same variant; another seed gives another."""
    ENGINES[digest("a")].sharpness = 3.0
    asked = {"model": "alpha:1", "prompt": "hello world", "temperature": 1.5, "max_tokens": 20}
    texts = [served.ask("/v1/completions", {**asked, "seed": seed}).json()["choices"] for seed in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]


def test_unknown_models_are_404(served: Served) -> None:
    """An unknown model is a 404 that names the known ones."""
    for path, body in (
        ("/v1/chat/completions", {**HELLO, "model": "alpha:2"}),
        ("/v1/completions", {**TEXT, "model": "gpt-4o"}),
        ("/api/v1/generate", {"prompt": "x", "model_id": "nope"}),
        ("/api/v1/generate", {"prompt": "x", "model": "nope:1"}),
    ):
        error = error_of(served.ask(path, body), 404, "model_not_found")
        assert error["param"] == "model"
        assert "alpha:1" in error["message"]
    error_of(served.ask("/v1/models/nope", method="GET"), 404, "model_not_found")
    assert not served.requests


def test_the_clients_request_id_is_echoed_and_never_the_records(served: Served) -> None:
    """A client's request id is echoed; the record uses the server's own unique ids."""

    async def ask(client):
        return [await client.post("/v1/completions", json=TEXT, headers={"X-Request-ID": "mine"}) for _ in range(3)]

    responses = served.use(ask)
    assert {response.headers["x-request-id"] for response in responses} == {"mine"}
    ids = [request.id for request in served.requests]
    assert len(set(ids)) == 3
    assert [response.json()["id"] for response in responses] == [f"cmpl-{id_}" for id_ in ids]
    for insane in ("", "a b", "x" * 200, "<script>"):
        shown = served.ask("/v1/completions", TEXT, **{"X-Request-ID": insane}).headers["x-request-id"]
        assert re.fullmatch("[0-9a-f]{32}", shown)


def test_feedback_finds_its_answer(served: Served) -> None:
    """Feedback is accepted right after the answer, under any form of the answer's id, and only for known ids."""

    async def run(client):
        for path, body in (("/v1/chat/completions", HELLO), ("/v1/completions", TEXT)):
            answer = await client.post(path, json={**body, "stream": True})
            id_ = events(answer.text)[0]["id"]
            for name in (id_, answer.headers["x-request-id"]):
                taken = await client.post("/v1/feedback", json={"request_id": name, "score": 0.5, "comment": "so so"})
                assert taken.status_code == 200, taken.text
                assert taken.json()["request_id"] == answer.headers["x-request-id"]
        return await client.post("/v1/feedback", json={"request_id": "chatcmpl-none", "score": 1})

    error_of(served.use(run), 404, "request_not_found")


def test_models_are_listed_with_their_lineage(served: Served) -> None:
    """The deployment is listed first, then its versions with digest, parent and share."""
    listed = served.ask("/v1/models", method="GET").json()
    assert listed["object"] == "list"
    assert [model["id"] for model in listed["data"]] == ["bot", "alpha:1", "beta:1"]
    assert all(model["object"] == "model" and model["owned_by"] == "ftreg" for model in listed["data"])
    alpha = served.ask("/v1/models/alpha:1", method="GET").json()
    assert alpha == listed["data"][1]
    assert (alpha["digest"], alpha["parent"], alpha["parents"]) == (digest("a"), BASE, {"base": BASE})
    assert alpha["route"] == {"role": "variant", "share": 0.5}
    bot = served.ask("/v1/models/bot", method="GET").json()
    assert bot["route"]["shares"] == {"alpha:1": 0.5, "beta:1": 0.5}


def test_metrics_are_labelled_by_variant_and_digest(served: Served) -> None:
    """The metrics have requests, errors, tokens, times and queues of each variant."""
    served.ask("/v1/completions", {**TEXT, "model": "alpha:1"})
    served.ask("/v1/completions", {**TEXT, "model": "alpha:1", "prompt": [999]})
    served.ask("/v1/completions", "x")
    text = served.ask("/metrics", method="GET").text
    labels = f'digest="{digest("a")}",route="pinned"'
    for line in (
        f'ftreg_requests_total{{{labels},status="200",variant="alpha:1"}} 1.0',
        f'ftreg_requests_total{{{labels},status="400",variant="alpha:1"}} 1.0',
        f'ftreg_errors_total{{code="invalid_value",{labels},variant="alpha:1"}} 1.0',
        f'ftreg_completion_tokens_total{{{labels},variant="alpha:1"}} 6.0',
        f'ftreg_request_seconds_count{{{labels},variant="alpha:1"}} 2.0',
        f'ftreg_first_token_seconds_count{{{labels},variant="alpha:1"}} 1.0',
        f'ftreg_waiting{{digest="{digest("b")}",variant="beta:1"}} 0.0',
        f'ftreg_rows{{digest="{digest("b")}",variant="beta:1"}} 0.0',
        f'ftreg_shadow_drops_total{{digest="{digest("b")}",variant="beta:1"}} 0.0',
        'ftreg_refused_total{code="invalid_value"} 1.0',
        "ftreg_lost_records_total 0.0",
        "ftreg_ready 1.0",
    ):
        assert _has(text, line), line


def _has(text: str, line: str) -> bool:
    """Whether a metric is in ``text``, its labels in any order."""

    def parts(line: str) -> tuple[str, frozenset[str], str]:
        name, labels, value = re.fullmatch(r"(\w+)(?:\{(.*)\})? (\S+)", line).groups()
        return name, frozenset(re.findall(r'\w+="[^"]*"', labels or "")), value

    return parts(line) in {parts(each) for each in text.splitlines() if not each.startswith("#")}


def test_a_model_without_a_template_refuses_chats(tmp_path: Path) -> None:
    """Chats need a template; completions and ``/api/v1/generate`` do not."""
    with options(chat=False), serving(deployment(), tmp_path) as served:
        error = error_of(served.ask("/v1/chat/completions", HELLO), 400, "no_chat_template")
        assert "/v1/completions" in error["message"]
        assert served.ask("/v1/completions", TEXT).status_code == 200
        assert served.ask("/api/v1/generate", {"prompt": "hi"}).status_code == 200


def test_a_chat_template_that_raises_is_the_clients_error(served: Served) -> None:
    """If the chat template raises, the reply is a 400 with the reason."""
    body = {**HELLO, "messages": [{"role": "user", "content": "refuse me"}]}
    assert "as told" in error_of(served.ask("/v1/chat/completions", body), 400)["message"]


def test_not_ready_is_503(tmp_path: Path) -> None:
    """While models load, and after loading has failed, requests are refused with 503 and ``Retry-After``."""
    with serving(deployment(variant("alpha", "a", serve="load_nothing")), tmp_path, ready=False) as served:
        for path, body, method in (
            ("/v1/chat/completions", HELLO, "POST"), ("/v1/models", None, "GET"), ("/v1/models/bot", None, "GET"),
        ):  # fmt: skip
            response = served.ask(path, body, method)
            error_of(response, 503, "loading")
            assert int(response.headers["retry-after"]) > 0
        served.pool.start()
        wait_for(lambda: served.pool.error)
        response = served.ask("/v1/completions", TEXT)
        error_of(response, 503, "load_failed")
        assert response.headers["retry-after"]
        assert "ftreg_ready 0.0" in served.ask("/metrics", method="GET").text
        assert served.ask("/admin/experiment", method="GET", **ADMIN).status_code == 200
