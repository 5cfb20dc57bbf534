"""The last part of the quickstart: a real server, two hundred requests of many users, and their feedback."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ftreg.core.errors import FtregError

REQUESTS, USERS, CLIENTS = 200, 140, 8
_START_TIMEOUT = 180.0
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # no proxy: the server is on this machine


@dataclass(frozen=True)
class Answer:
    """The answer to one request, which variant gave it, and whether it is right."""

    user: str
    variant: str
    request_id: str
    text: str
    right: bool


@contextmanager
def server(name: str, port: int, log: Path) -> Iterator[str]:
    """Run ``bentoml serve NAME:latest``; yield its URL when it is ready, and stop it at the end."""
    command = [sys.executable, "-m", "bentoml", "serve", f"{name}:latest", "--port", str(port)]
    url = f"http://127.0.0.1:{port}"
    environment = {name: value for name, value in os.environ.items() if name != "FTREG_API_KEYS"}
    with log.open("w") as output:
        process = subprocess.Popen(
            command,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env={**environment, "BENTOML_DO_NOT_TRACK": "True"},
        )
        try:
            _wait_until_ready(process, url, log)
            yield url
        finally:
            # BentoML starts workers, so the whole process group is terminated.
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
                try:
                    process.wait(timeout=20)
                except subprocess.TimeoutExpired:
                    os.killpg(process.pid, signal.SIGKILL)


def free_port() -> int:
    """Return a free port of the loopback interface."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


def ask_questions(url: str, name: str, rows: Sequence[tuple[str, str]]) -> list[Answer]:
    """Send ``REQUESTS`` requests of ``USERS`` users; ``rows`` are questions with their expected answers."""

    def ask(number: int) -> Answer:
        question, expected = rows[number % len(rows)]
        user = f"user-{number % USERS}"
        body = {"model": name, "messages": [{"role": "user", "content": question}], "temperature": 0, "max_tokens": 64}
        headers, answer = post(f"{url}/v1/chat/completions", body, {"X-User-ID": user})
        text = answer["choices"][0]["message"]["content"]
        right = " ".join(text.split()) == " ".join(expected.split())
        return Answer(user, headers["X-Ftreg-Variant"], headers["X-Request-ID"], text, right)

    with ThreadPoolExecutor(CLIENTS) as clients:
        return list(clients.map(ask, range(REQUESTS)))


def send_feedback(url: str, answers: Sequence[Answer]) -> None:
    """Score each answer on the server: 1 if it was right, else 0."""

    def tell(answer: Answer) -> None:
        post(f"{url}/v1/feedback", {"request_id": answer.request_id, "score": float(answer.right)})

    with ThreadPoolExecutor(CLIENTS) as clients:
        list(clients.map(tell, answers))


def split(answers: Sequence[Answer]) -> dict[str, int]:
    """Return how many users each variant answered."""
    return dict(Counter(variant for variants in _variants_by_user(answers).values() for variant in variants))


def returning_users(answers: Sequence[Answer]) -> tuple[int, int]:
    """Return how many users asked more than once, and how many of them met more than one variant."""
    requests = Counter(answer.user for answer in answers)
    variants = _variants_by_user(answers)
    again = [user for user, count in requests.items() if count > 1]
    return len(again), sum(len(variants[user]) > 1 for user in again)


def post(url: str, body: Any, headers: dict[str, str] | None = None) -> tuple[Any, Any]:
    """Post JSON; return the answer's headers and its JSON, or raise ``FtregError`` for an answer that is an error."""
    request = urllib.request.Request(  # noqa: S310 - a URL of our own
        url, json.dumps(body).encode(), {"Content-Type": "application/json", **(headers or {})}
    )
    try:
        with _DIRECT.open(request, timeout=120) as answer:
            return answer.headers, json.loads(answer.read() or b"null")
    except urllib.error.HTTPError as error:
        raise FtregError(f"the server answered {error.code}: {error.read().decode(errors='replace')[:300]}") from None


def _variants_by_user(answers: Sequence[Answer]) -> dict[str, set[str]]:
    found: dict[str, set[str]] = defaultdict(set)
    for answer in answers:
        found[answer.user].add(answer.variant)
    return found


def _wait_until_ready(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    """Wait for the server to have loaded its models; raise ``FtregError`` if it ends or takes too long."""
    deadline = time.monotonic() + _START_TIMEOUT
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with _DIRECT.open(f"{url}/readyz", timeout=5):
                return
        except OSError:  # not listening yet, or not ready
            time.sleep(0.25)
    raise FtregError("the server did not start", where=str(log), hint="Its last lines say why.")
