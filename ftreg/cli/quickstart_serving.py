"""The last part of the quickstart: a real server, two hundred requests of many users, and their feedback."""

from __future__ import annotations

import json
import os
import urllib.error
import urllib.request
from collections import Counter, defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ftreg.api.launch import run_server
from ftreg.core.errors import FtregError

REQUESTS, USERS, CLIENTS = 200, 140, 8
_START_TIMEOUT = 900.0  # on a slow machine, importing and loading take minutes
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # no proxy stands before this machine itself


@dataclass(frozen=True)
class ServedAnswer:
    """The answer to one request, which variant gave it, and whether it is right."""

    user: str
    variant: str
    request_id: str
    text: str
    right: bool


def server(name: str, port: int, log: Path) -> AbstractContextManager[str]:
    """Run ``bentoml serve NAME:latest``; the context yields its URL when it is ready, and stops it in the end."""
    environment = {name: value for name, value in os.environ.items() if name != "FTREG_API_KEYS"}
    command = ["bentoml", "serve", f"{name}:latest", "--port", str(port)]
    return run_server(command, port, log=log, environment=environment, timeout=_START_TIMEOUT)


def ask_questions(url: str, name: str, rows: Sequence[tuple[str, str]]) -> list[ServedAnswer]:
    """Send ``REQUESTS`` requests of ``USERS`` users; ``rows`` are questions with their expected answers."""

    def ask(number: int) -> ServedAnswer:
        question, expected = rows[number % len(rows)]
        user = f"user-{number % USERS}"
        body = {"model": name, "messages": [{"role": "user", "content": question}], "temperature": 0, "max_tokens": 64}
        headers, answer = post(f"{url}/v1/chat/completions", body, {"X-User-ID": user})
        text = answer["choices"][0]["message"]["content"]
        right = " ".join(text.split()) == " ".join(expected.split())
        return ServedAnswer(user, headers["X-Ftreg-Variant"], headers["X-Request-ID"], text, right)

    with ThreadPoolExecutor(CLIENTS) as clients:
        return list(clients.map(ask, range(REQUESTS)))


def send_feedback(url: str, answers: Sequence[ServedAnswer]) -> None:
    """Score each answer on the server: 1 if it was right, else 0."""

    def tell(answer: ServedAnswer) -> None:
        post(f"{url}/v1/feedback", {"request_id": answer.request_id, "score": float(answer.right)})

    with ThreadPoolExecutor(CLIENTS) as clients:
        list(clients.map(tell, answers))


def split(answers: Sequence[ServedAnswer]) -> dict[str, int]:
    """Return how many users each variant answered."""
    return dict(Counter(variant for variants in _variants_by_user(answers).values() for variant in variants))


def returning_users(answers: Sequence[ServedAnswer]) -> tuple[int, int]:
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


def _variants_by_user(answers: Sequence[ServedAnswer]) -> dict[str, set[str]]:
    found: dict[str, set[str]] = defaultdict(set)
    for answer in answers:
        found[answer.user].add(answer.variant)
    return found
