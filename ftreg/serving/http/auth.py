"""Authentication: bearer tokens and API keys, compared in constant time."""

from __future__ import annotations

import hmac
from collections.abc import Collection

from starlette.datastructures import Headers

from ftreg.serving.errors import unauthorized


def bearer_token(headers: Headers) -> bytes | None:
    """Return the token of an ``Authorization: Bearer`` header (RFC 6750) as it was sent; None without such a header."""
    scheme, _, token = headers.get("authorization", "").encode("latin-1").partition(b" ")
    return token.strip() or None if scheme.lower() == b"bearer" else None


def matches(given: bytes, expected: str) -> bool:
    """Compare a secret with the expected one, in UTF-8, in a time that does not depend on where they differ."""
    return hmac.compare_digest(given, expected.encode())


def check_api_key(headers: Headers, known: Collection[str]) -> str:
    """Return the client's API key; raise ``ApiError`` (401) if it is missing or unknown."""
    given = bearer_token(headers)
    if given is None:
        raise unauthorized("an API key is required: Authorization: Bearer KEY")
    if not sum(matches(given, key) for key in known):  # compare with every key: the time must not reveal which matched
        raise unauthorized("the API key is unknown")
    return given.decode()


def check_admin_token(headers: Headers, expected: str) -> None:
    """Raise ``ApiError`` (401) unless the request carries the administrator's token."""
    given = bearer_token(headers)
    if given is None or not matches(given, expected):
        raise unauthorized("the administrator's token is required: Authorization: Bearer TOKEN")
