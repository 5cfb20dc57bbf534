"""Middleware around the application: request ids, API keys, response headers, unexpected errors."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable, Collection, Iterator

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ftreg.serving.errors import ApiError
from ftreg.serving.http.auth import check_api_key
from ftreg.serving.http.context import RequestContext
from ftreg.serving.http.responses import error_response

logger = logging.getLogger("ftreg.serving")

_CLIENT_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:+/=@-]{0,127}", re.ASCII)
_PROTECTED = ("/v1/", "/api/")


class RequestMiddleware:
    """ASGI middleware: gives requests their context, checks API keys, and turns unexpected exceptions into errors.

    Args:
        app: The application behind it.
        experiment: Name of the experiment, sent with every response.
        api_keys: The accepted API keys; if empty, none is required.
        count_refused: Called with the error's code for each request that is refused here.
    """

    def __init__(
        self, app: ASGIApp, *, experiment: str, api_keys: Collection[str], count_refused: Callable[[str], None]
    ) -> None:
        self._app = app
        self._experiment = experiment.encode("latin-1")
        self._api_keys = tuple(api_keys)
        self._count_refused = count_refused
        self._ids = _random_ids()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on to the application, or refuse it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        context = RequestContext(next(self._ids))
        context.attach(scope)
        client_id = headers.get("x-request-id", "")
        shown_id = client_id if _CLIENT_ID.fullmatch(client_id) else context.id
        context.headers = [(b"x-request-id", shown_id.encode()), (b"x-ftreg-experiment", self._experiment)]
        started = False

        async def send_with_headers(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                message["headers"] = [*message.get("headers", ()), *context.headers]
            await send(message)

        try:
            if self._api_keys and _path(scope).startswith(_PROTECTED):
                context.api_key = check_api_key(headers, self._api_keys)
            await self._app(scope, receive, send_with_headers)
        except ApiError as error:
            self._count_refused(error.code)
            await error_response(error)(scope, receive, send_with_headers)
        except Exception:
            logger.exception("%s %s failed", scope["method"], scope["path"])
            if started:
                raise
            failure = ApiError(500, "the server failed; its log says why", code="internal_error")
            await error_response(failure)(scope, receive, send_with_headers)


def _path(scope: Scope) -> str:
    """Return the path below the application's mount point."""
    path: str = scope["path"]
    return path.removeprefix(scope.get("root_path", ""))


def _random_ids() -> Iterator[str]:
    """Yield ids that cannot be guessed. Randomness is read for 256 ids at a time, since each system call is slow."""
    while True:
        block = os.urandom(16 * 256)
        yield from (block[start : start + 16].hex() for start in range(0, len(block), 16))
