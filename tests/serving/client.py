"""A deployment of echo engines with its application, and clients of it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from ftreg.serving.decoding.pool import ModelPool
from ftreg.serving.deployment import Deployment
from ftreg.serving.experiment.entry import RequestEntry
from ftreg.serving.experiment.record import ExperimentRecord
from ftreg.serving.http.app import create_app
from tests.serving.fakes import ENGINES, HANG_SECONDS, open_source, wait_for

TOKEN = "admin-secret"
ADMIN = {"Authorization": f"Bearer {TOKEN}"}


class Served:
    """An application, and the requests that it has recorded."""

    def __init__(self, deployment: Deployment, folder: Path, api_keys: tuple[str, ...]) -> None:
        self.deployment = deployment
        self.pool = ModelPool(deployment, open_source)
        self.record = ExperimentRecord(folder / "experiment.db", deployment)
        self.requests: list[RequestEntry] = []
        store = self.record.add
        self.record.add = lambda request: (self.requests.append(request), store(request))[1]  # type: ignore[method-assign]
        self.app = create_app(deployment, self.pool, self.record, api_keys=api_keys, admin_token=TOKEN)

    def use(self, work: Callable[[httpx.AsyncClient], Awaitable[Any]], **headers: str) -> Any:
        """Run ``work`` with a client on an event loop of its own."""

        async def run() -> Any:
            transport = httpx.ASGITransport(self.app)
            async with httpx.AsyncClient(transport=transport, base_url="http://test", headers=headers) as client:
                return await asyncio.wait_for(work(client), HANG_SECONDS)

        return asyncio.run(run())

    def ask(self, path: str, body: object = None, method: str = "POST", **headers: str) -> httpx.Response:
        """Send one request."""
        return self.use(lambda client: client.request(method, path, json=body), **headers)

    def rows(self, route: str) -> list[RequestEntry]:
        """The recorded requests of a route."""
        return [request for request in self.requests if request.route == route]

    def idle(self) -> bool:
        """Whether no completion is queued or running."""
        return all(load == ({}, {}) for load in (batcher.loads() for batcher in self.pool.batchers))


@contextmanager
def serving(
    deployment: Deployment, folder: Path, *, api_keys: tuple[str, ...] = (), ready: bool = True
) -> Iterator[Served]:
    """Serve a deployment, with its record in ``folder``."""
    served = Served(deployment, folder, api_keys)
    try:
        if ready:
            served.pool.start()
            wait_for(lambda: served.pool.ready)
        yield served
    finally:
        for engine in ENGINES.values():
            engine.gate.set()
        served.pool.close()
        served.record.close()


class Connection:
    """One request at the level of ASGI, whose messages can be watched, and whose client can disconnect.

    Args:
        app: The application.
        path: Path of the request.
        body: Body of the request.
        complete: Whether the body is all of the request's body.
        room: Number of messages that are buffered until one is read; 0 for any number.
    """

    def __init__(self, app: Any, path: str, body: bytes, *, complete: bool = True, room: int = 0) -> None:
        self.sent: asyncio.Queue[Mapping[str, Any]] = asyncio.Queue(room)
        self.watch: Callable[[Mapping[str, Any]], None] = lambda message: None
        self._messages: asyncio.Queue[Mapping[str, Any]] = asyncio.Queue()
        self._messages.put_nowait({"type": "http.request", "body": body, "more_body": not complete})
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

    def disconnect(self) -> None:
        """Close the connection, as a client that goes away."""
        self._messages.put_nowait({"type": "http.disconnect"})

    async def start(self) -> int:
        """Wait for the response to start; return its status."""
        message = await asyncio.wait_for(self.sent.get(), HANG_SECONDS)
        assert message["type"] == "http.response.start"
        return int(message["status"])

    async def piece(self) -> bytes:
        """Wait for the next message; return its body."""
        message = await asyncio.wait_for(self.sent.get(), HANG_SECONDS)
        return bytes(message.get("body", b""))

    async def end(self) -> None:
        """Wait for the application to finish the request."""
        await asyncio.wait_for(self.task, HANG_SECONDS)


def events(text: str) -> list[Any]:
    """Return the events of a stream; the last is ``[DONE]`` or an error."""
    parts = text.split("\n\n")
    assert parts.pop() == ""
    assert all(part.startswith("data: ") and "\n" not in part for part in parts)
    return [part[6:] if part == "data: [DONE]" else json.loads(part[6:]) for part in parts]


def error_of(response: httpx.Response, status: int, code: str | None = None) -> dict[str, Any]:
    """Return the error of a response, after checking that it is OpenAI's error object with all common headers."""
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
