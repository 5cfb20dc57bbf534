"""The guard: what stands between the network and the application."""

from __future__ import annotations

import asyncio
import hmac
import logging
import os
import re
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ftreg.serving.deployment import Limits
from ftreg.serving.errors import ApiError, unauthorized

logger = logging.getLogger("ftreg.serving")

_SANE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:+/=@-]{0,127}", re.ASCII)
_GUARDED = ("/v1/", "/api/")


@dataclass
class Visit:
    """A request as the guard let it in.

    Attributes:
        id: The server's own id, unique whatever the client sends.
        api_key: The client's, where the server asks for one.
        headers: Headers that the response will have, whatever becomes of the request.
        at: When it came, in Unix seconds.
        started: Likewise, by the monotonic clock.
        routed: Whether a variant was chosen.
    """

    id: str
    api_key: str | None = None
    headers: list[tuple[bytes, bytes]] = field(default_factory=list)
    at: float = field(default_factory=time.time)
    started: float = field(default_factory=time.monotonic)
    routed: bool = False

    @staticmethod
    def of(request: Request) -> Visit:
        """The visit of a request."""
        visit: Visit = request.scope["ftreg.visit"]
        return visit


class Guard:
    """ASGI: gives requests their ids, asks for API keys, and answers for what fails unexpectedly.

    Args:
        app: The application behind it.
        experiment: Named in every response.
        api_keys: The keys that clients may have; none lets everybody in.
        count_refused: Called with the error's code for each request that is not let in.
    """

    def __init__(
        self, app: ASGIApp, *, experiment: str, api_keys: Collection[str], count_refused: Callable[[str], None]
    ) -> None:
        self._app = app
        self._experiment = experiment.encode("latin-1")
        self._api_keys = tuple(api_keys)
        self._count_refused = count_refused
        self._ids = _fresh_ids()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request in, or refuse it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        visit = scope["ftreg.visit"] = Visit(next(self._ids))
        asked = headers.get("x-request-id", "")
        shown = asked if _SANE_ID.fullmatch(asked) else visit.id
        visit.headers = [(b"x-request-id", shown.encode()), (b"x-ftreg-experiment", self._experiment)]
        started = False

        async def send_tagged(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                message["headers"] = [*message.get("headers", ()), *visit.headers]
            await send(message)

        try:
            if self._api_keys and self._path(scope).startswith(_GUARDED):
                visit.api_key = self._check_key(headers)
            await self._app(scope, receive, send_tagged)
        except ApiError as error:
            self._count_refused(error.code)
            await respond(error)(scope, receive, send_tagged)
        except Exception:
            logger.exception("%s %s failed", scope["method"], scope["path"])
            if started:
                raise
            failure = ApiError(500, "the server failed; its log says how", code="internal_error")
            await respond(failure)(scope, receive, send_tagged)

    def _path(self, scope: Scope) -> str:
        """The path below where the application is mounted."""
        path: str = scope["path"]
        return path.removeprefix(scope.get("root_path", ""))

    def _check_key(self, headers: Headers) -> str:
        """Return the client's key; raise ``ApiError`` (401) where it has none that is known."""
        given = bearer(headers)
        if given is None:
            raise unauthorized("an API key is needed: Authorization: Bearer KEY")
        if not sum(same(given, key) for key in self._api_keys):  # of all keys: the time must not tell which
            raise unauthorized("the API key is not known here")
        return given.decode()


def _fresh_ids() -> Iterator[str]:
    """Ids that nobody can guess. Randomness is fetched for many at a time: the call costs as much as a short answer."""
    while True:
        pool = os.urandom(16 * 256)
        yield from (pool[start : start + 16].hex() for start in range(0, len(pool), 16))


def bearer(headers: Headers) -> bytes | None:
    """The token of an ``Authorization: Bearer`` header (RFC 6750), as it was sent."""
    scheme, _, token = headers.get("authorization", "").encode("latin-1").partition(b" ")
    return token.strip() or None if scheme.lower() == b"bearer" else None


def same(given: bytes, expected: str) -> bool:
    """Compare secrets, the expected in UTF-8, in a time that tells nothing of where they differ."""
    return hmac.compare_digest(given, expected.encode())


def respond(error: ApiError) -> Response:
    """The response that tells an error."""
    return Response(error.body(), error.status, headers=error.headers, media_type="application/json")


async def read_body(request: Request, limits: Limits) -> bytes:
    """Read a JSON body; raise ``ApiError`` for another type (415), a larger one (413), one that does not come (408)."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":  # what web pages may send to any server without being asked is never this
        raise ApiError(415, "send JSON, with Content-Type: application/json", code="unsupported_media_type")
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared[:20]) > limits.max_body_bytes:
        raise _too_large(limits)
    body = bytearray()
    try:
        async with asyncio.timeout(limits.timeout):
            async for chunk in request.stream():
                body += chunk
                if len(body) > limits.max_body_bytes:
                    raise _too_large(limits)
    except TimeoutError:
        raise ApiError(408, "the request's body did not come in time", code="timeout") from None
    return bytes(body)


def _too_large(limits: Limits) -> ApiError:
    return ApiError(413, f"a body may have at most {limits.max_body_bytes} bytes", code="request_too_large")
