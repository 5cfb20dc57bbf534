"""The judge: asked over HTTP, its verdicts read strictly, and what goes wrong counted and said."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock, Thread
from typing import Any

import pytest

from ftreg.core.errors import FtregError, InputError, RecipeError
from ftreg.core.host import PluginHost
from ftreg.core.types import AnsweredPrompt, NullProgress
from ftreg.pipeline.metrics import choose_metrics, compute

HOST = PluginHost(only=())
GOOD = {"relevance": 4, "helpfulness": 5, "accuracy": 1}
Reply = Callable[[dict[str, Any], int], tuple[int, Any]]


class Server:
    """A judge on this machine: ``reply`` gets a request and how often it came, and returns status and body."""

    def __init__(self) -> None:
        self.reply: Reply = lambda request, times: (200, completion(json.dumps(GOOD)))
        self.requests: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self._lock = Lock()
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with server._lock:
                    server.requests.append(request)
                    server.headers.append(dict(self.headers))
                    times = server.requests.count(request)
                status, body = server.reply(request, times)
                data = json.dumps(body).encode()
                self.send_response(status)
                if 300 <= status < 400:
                    self.send_header("Location", f"{server.url}/elsewhere")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: Any) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}/v1"
        Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()


def completion(text: Any) -> dict[str, Any]:
    """A chat completion."""
    return {"choices": [{"message": {"role": "assistant", "content": text}}]}


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """Run a judge."""
    monkeypatch.delenv("FTREG_JUDGE_KEY", raising=False)
    made = Server()
    yield made
    made.http.shutdown()
    made.http.server_close()


def ask(server: Server, count: int = 6, **settings: Any) -> dict[str, Any]:
    """Let the judge score ``count`` answers, without pauses between attempts; return what was found and said."""
    given = {"url": server.url, "model": "judge-1", "backoff": 0, **settings}
    call = choose_metrics(HOST, ["judge"], {f"judge.{key}": value for key, value in given.items()})[-1]
    said: list[str] = []

    class Log(NullProgress):
        def say(self, message: str) -> None:
            said.append(message)

    answers = [AnsweredPrompt(f"question {n}", f"expected {n}", f"answer {n}") for n in range(count)]
    return {**compute(HOST, call, answers, Log()), "said": said, "key": call.key}


def number_of(request: dict[str, Any]) -> int:
    """Which answer a request is about."""
    return int(json.loads(request["messages"][1]["content"])["answer"].split()[-1])


def test_every_answer_is_scored(server: Server) -> None:
    """Scores come in the order of the answers, whichever request ends first; the request says what it should."""
    server.reply = lambda request, times: (200, completion(json.dumps(GOOD | {"accuracy": 1 + number_of(request) % 5})))
    found = ask(server)
    assert list(found["examples"]["accuracy"]) == [1.0, 2.0, 3.0, 4.0, 5.0, 1.0]
    assert found["figures"] == {"relevance": 4.0, "helpfulness": 5.0, "accuracy": 16 / 6, "failed": 0.0}
    request = server.requests[0]
    assert (request["model"], request["temperature"]) == ("judge-1", 0)
    assert "- accuracy: what the answer says is correct" in request["messages"][0]["content"]
    assert set(json.loads(request["messages"][1]["content"])) == {"question", "expected answer", "answer"}


def test_a_row_without_a_verdict_is_counted_and_said(server: Server) -> None:
    """Whatever is not a strict verdict costs that row alone; a fence around JSON does not."""
    replies = [
        json.dumps(GOOD), f"```json\n{json.dumps(GOOD)}\n```", "I give it a 5.", json.dumps(GOOD | {"accuracy": 6}),
        json.dumps({"accuracy": 3}), json.dumps(GOOD | {"accuracy": True}), None,
    ]  # fmt: skip
    server.reply = lambda request, times: (200, completion(replies[number_of(request)]))
    found = ask(server, count=7)
    assert [math.isnan(score) for score in found["examples"]["accuracy"]] == [False, False, *[True] * 5]
    assert found["figures"]["failed"] == pytest.approx(5 / 7)
    assert [row[0] for row in found["tables"][0]["rows"]] == [3, 4, 5, 6, 7]
    assert "accuracy is 6" in found["tables"][0]["rows"][1][1]
    assert "no usable verdict on 5 of 7 answers" in found["said"][-1]


def test_what_may_pass_is_tried_again(server: Server) -> None:
    """A busy judge is asked again as often as the settings say, and no answer is lost."""
    server.reply = lambda request, times: (503, {}) if times < 3 else (200, completion(json.dumps(GOOD)))
    assert ask(server, count=3, retries=2)["figures"]["failed"] == 0.0
    assert len(server.requests) == 9
    server.requests.clear()
    with pytest.raises(FtregError, match="no usable verdict on any answer; on the first: the judge answers 503"):
        ask(server, count=2, retries=1)


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_refusal_ends_it(status: int, server: Server) -> None:
    """A wrong key, address or model is one error, and is not tried again."""
    server.reply = lambda request, times: (status, {})
    with pytest.raises(InputError, match=f"the judge answers {status}"):
        ask(server, count=1)
    assert len(server.requests) == 1


def test_the_key_goes_to_the_judge_alone(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """It comes from the environment, is in no record, and does not follow a redirect."""
    monkeypatch.setenv("MY_KEY", "secret")
    found = ask(server, count=1, key_env="MY_KEY")
    assert server.headers[-1]["Authorization"] == "Bearer secret"
    assert "secret" not in json.dumps(found["key"])
    assert found["key"]["settings"]["key_env"] == "MY_KEY"
    server.reply = lambda request, times: (307, {})
    with pytest.raises(FtregError, match="answers 307"):
        ask(server, count=1, key_env="MY_KEY")
    assert len(server.requests) == 2


def test_how_the_judge_is_reached_changes_no_figure(server: Server) -> None:
    """Retries and concurrency are not part of what a figure depends on; the criteria are."""
    server.reply = lambda request, times: (200, completion(json.dumps({"tone": 3})))
    tone = {"criteria": {"tone": "it is calm"}}
    keys = [ask(server, 1, **settings)["key"] for settings in (tone, {**tone, "retries": 1, "concurrency": 1})]
    assert keys[0] == keys[1]
    assert keys[0]["settings"]["criteria"] == tone["criteria"]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"url": "ftp://x"}, "is not an address"),
        ({"url": "http://me:secret@host/v1"}, "put the key into the environment"),
        ({"highest": 1}, "not above lowest"),
        ({"criteria": {"failed": "x"}}, "call the criterion otherwise"),
    ],
)
def test_bad_settings(settings: dict[str, Any], said: str) -> None:
    """They are refused before any request."""
    given = {"url": "http://localhost/v1", "model": "m", **settings}
    with pytest.raises(RecipeError, match=said):
        choose_metrics(HOST, ["judge"], {f"judge.{key}": value for key, value in given.items()})
