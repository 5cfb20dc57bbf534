"""A served deployment of echo engines, and clients of its application."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from ftreg.serving.decoding.fleet import Fleet
from ftreg.serving.deployment import Deployment
from ftreg.serving.experiment.record import Record, Request
from ftreg.serving.http.app import create_app
from tests.serving.fakes import open_source, wait_for

TOKEN = "admin-secret"
ADMIN = {"Authorization": f"Bearer {TOKEN}"}


class Served:
    """An application, and what it has recorded."""

    def __init__(self, deployment: Deployment, folder: Path, api_keys: tuple[str, ...]) -> None:
        self.deployment = deployment
        self.fleet = Fleet(deployment, open_source)
        self.record = Record(folder / "experiment.db", deployment)
        self.requests: list[Request] = []
        store = self.record.add
        self.record.add = lambda request: (self.requests.append(request), store(request))[1]  # type: ignore[method-assign]
        self.app = create_app(deployment, self.fleet, self.record, api_keys=api_keys, admin_token=TOKEN)

    def use(self, work: Callable[[httpx.AsyncClient], Awaitable[Any]], **headers: str) -> Any:
        """Run ``work`` with a client, on an event loop."""

        async def run() -> Any:
            transport = httpx.ASGITransport(self.app)
            async with httpx.AsyncClient(transport=transport, base_url="http://test", headers=headers) as client:
                return await asyncio.wait_for(work(client), 30)

        return asyncio.run(run())

    def ask(self, path: str, body: object = None, method: str = "POST", **headers: str) -> httpx.Response:
        """One request, alone."""
        return self.use(lambda client: client.request(method, path, json=body), **headers)

    def rows(self, route: str | None = None) -> list[Request]:
        return [request for request in self.requests if route in (None, request.route)]

    def idle(self) -> bool:
        return all(load == ({}, {}) for load in (batcher.loads() for batcher in self.fleet.batchers))


@contextmanager
def serving(
    deployment: Deployment, folder: Path, *, api_keys: tuple[str, ...] = (), ready: bool = True
) -> Iterator[Served]:
    """Serve a deployment; its record is in ``folder``."""
    served = Served(deployment, folder, api_keys)
    try:
        if ready:
            served.fleet.start()
            wait_for(lambda: served.fleet.ready)
        yield served
    finally:
        served.fleet.close()
        served.record.close()


class Connection:
    """One request at the level of ASGI, whose pieces can be watched, and which can be hung up.

    Args:
        app: The application.
        path: Of the request.
        body: Of the request.
        room: Messages that are taken before somebody reads one; none for any number.
    """

    def __init__(self, app: Any, path: str, body: bytes, *, room: int = 0) -> None:
        self.sent: asyncio.Queue[Mapping[str, Any]] = asyncio.Queue(room)
        self.watch: Callable[[Mapping[str, Any]], None] = lambda message: None
        self._messages: asyncio.Queue[Mapping[str, Any]] = asyncio.Queue()
        self._messages.put_nowait({"type": "http.request", "body": body, "more_body": False})
        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.4"},
            "http_version": "1.1",
            "method": "POST",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "root_path": "",
            "scheme": "http",
            "headers": [(b"content-type", b"application/json")],
            "server": ("test", 80),
            "client": ("test", 1),
        }
        self.task = asyncio.get_running_loop().create_task(app(scope, self._messages.get, self._send))

    async def _send(self, message: Mapping[str, Any]) -> None:
        self.watch(message)
        await self.sent.put(message)

    def hang_up(self) -> None:
        self._messages.put_nowait({"type": "http.disconnect"})

    async def start(self) -> int:
        """The status, when it comes."""
        message = await asyncio.wait_for(self.sent.get(), 10)
        assert message["type"] == "http.response.start"
        return int(message["status"])

    async def piece(self) -> bytes:
        message = await asyncio.wait_for(self.sent.get(), 10)
        return bytes(message.get("body", b""))

    async def end(self) -> None:
        await asyncio.wait_for(self.task, 10)


def events(text: str) -> list[Any]:
    """The events of a stream; the last is ``[DONE]``, or an error."""
    parts = text.split("\n\n")
    assert parts.pop() == ""
    assert all(part.startswith("data: ") and "\n" not in part for part in parts)
    return [part[6:] if part == "data: [DONE]" else json.loads(part[6:]) for part in parts]


def error_of(response: httpx.Response, status: int, code: str | None = None) -> dict[str, Any]:
    """The error of a refusal, checked to be an OpenAI error object with the headers that all responses have."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    assert response.headers["x-request-id"]
    assert response.headers["x-ftreg-experiment"] == "trial"
    content = response.json()
    assert set(content) == {"error"}
    error = content["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert isinstance(error["message"], str)
    assert error["message"]
    assert code is None or error["code"] == code, error
    return error
