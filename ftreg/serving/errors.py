"""Errors of the HTTP API, as OpenAI error objects."""

from __future__ import annotations

import json
from collections.abc import Mapping

from ftreg.core.errors import FtregError

_TYPES = {401: "authentication_error", 429: "rate_limit_error"}


class ApiError(FtregError):
    """An error that is returned to the client.

    Args:
        status: The HTTP status.
        message: What is wrong, and what to do about it.
        code: Machine-readable name of the error.
        param: The field of the request that is invalid.
        headers: Headers of the response.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.param = param
        self.headers = dict(headers or {})

    def body(self) -> bytes:
        """Return OpenAI's error object as JSON."""
        kind = "server_error" if self.status >= 500 else _TYPES.get(self.status, "invalid_request_error")
        error = {"message": self.message, "type": kind, "param": self.param, "code": self.code}
        return json.dumps({"error": error}).encode()


def bad_request(message: str, *, param: str | None = None, code: str = "invalid_value") -> ApiError:
    """The request is invalid (400)."""
    return ApiError(400, message, code=code, param=param)


def unauthorized(message: str) -> ApiError:
    """The API key or the administrator's token is missing or wrong (401)."""
    return ApiError(401, message, code="invalid_api_key", headers={"WWW-Authenticate": "Bearer"})


def server_busy() -> ApiError:
    """The queue is full (429)."""
    message = "the server is busy: the queue is full; try again shortly"
    return ApiError(429, message, code="server_busy", headers={"Retry-After": "1"})


def unavailable(message: str, *, code: str, retry_after: int = 5) -> ApiError:
    """The server cannot answer now (503); ``retry_after`` is in seconds."""
    return ApiError(503, message, code=code, headers={"Retry-After": str(retry_after)})


def engine_failed() -> ApiError:
    """The model failed (500); the server's log says why."""
    return ApiError(500, "the model failed while it was answering", code="engine_error")


def timed_out(seconds: float) -> ApiError:
    """The answer was not complete in time (408)."""
    message = f"the answer was not complete within {seconds:g} seconds; ask for fewer tokens, or try again later"
    return ApiError(408, message, code="timeout")


def client_gone() -> ApiError:
    """The client has disconnected (499); the error is only recorded."""
    return ApiError(499, "the client closed the connection", code="client_closed_request")
