"""The context of one HTTP request, from the middleware to the record."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from starlette.requests import Request
from starlette.types import Scope

_SCOPE_KEY = "ftreg.context"


@dataclass
class RequestContext:
    """What the server knows about a request besides its content.

    Attributes:
        id: The server's own id, unique whatever the client sends.
        api_key: The client's API key; None if the server does not require one.
        headers: Headers to add to the response, whether it succeeds or fails.
        at: Time of arrival, in Unix seconds.
        started: The same on the monotonic clock.
        routed: Whether a variant has been chosen.
    """

    id: str
    api_key: str | None = None
    headers: list[tuple[bytes, bytes]] = field(default_factory=list)
    at: float = field(default_factory=time.time)
    started: float = field(default_factory=time.monotonic)
    routed: bool = False

    def attach(self, scope: Scope) -> None:
        """Keep the context in the ASGI scope of its request."""
        scope[_SCOPE_KEY] = self

    @staticmethod
    def of(request: Request) -> RequestContext:
        """Return the context of a request that has passed the middleware."""
        context: RequestContext = request.scope[_SCOPE_KEY]
        return context
