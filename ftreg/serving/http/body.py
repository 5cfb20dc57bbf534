"""Reads the body of a request within its limits."""

from __future__ import annotations

import asyncio

from starlette.requests import Request

from ftreg.serving.deployment import Limits
from ftreg.serving.errors import ApiError


async def read_body(request: Request, limits: Limits) -> bytes:
    """Read a JSON body.

    Raises:
        ApiError: It is sent as another type (415), is too large (413), or does not arrive in time (408).
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":  # browsers do not let a web page send this type across origins without asking
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
        raise ApiError(408, "the request's body did not arrive in time", code="timeout") from None
    return bytes(body)


def _too_large(limits: Limits) -> ApiError:
    return ApiError(413, f"a body may have at most {limits.max_body_bytes} bytes", code="request_too_large")
