"""The client of a running server's admin routes: changes the weights of its experiment."""

from __future__ import annotations

import json
from collections.abc import Mapping
from http.client import HTTPException
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, ProxyHandler, Request, build_opener

from ftreg.core.errors import FtregError, InputError
from ftreg.core.names import check_name
from ftreg.core.text import read_text
from ftreg.serving.deployment import state_folder

_SECONDS = 30.0


def put_weights(url: str, token: str, name: str, weights: Mapping[str, float]) -> dict[str, Any]:
    """Ask the server at ``url`` to change weights of the deployment ``name``; return its answer.

    Raises:
        InputError: The address cannot be used, another deployment is served there, or the server refuses the token or
            the weights.
        FtregError: No ftreg server answers there, or it fails.
    """
    if not _is_address(url):
        raise InputError(f"{url!r} is not an address", where="url", hint="Write http://127.0.0.1:3000")
    if not (token.isascii() and token.isprintable() and token):
        raise InputError("not a token", where="token", hint="The server has stored its token in admin-token.")
    served = _ask(url, token, "GET")["deployment"]
    if served != name:  # servers may share an admin token
        raise InputError(f"serves {served}, not {name}", where=url, hint=f"Give the address of {name} as `url`.")
    return _ask(url, token, "PUT", json.dumps({"weights": dict(weights)}).encode())


def stored_token(name: str) -> str:
    """Return the admin token that the servers of the deployment ``name`` have stored on this machine."""
    path = state_folder(check_name(name)) / "admin-token"
    if not path.exists():
        hint = "A server writes it when it starts; give another server's as `token` or in $FTREG_ADMIN_TOKEN."
        raise InputError("there is no admin token", where=str(path), hint=hint)
    return read_text(path, InputError).strip()


def _ask(url: str, token: str, method: str, body: bytes | None = None) -> dict[str, Any]:
    """Send a request about the experiment; return the answer, which shows it as it then is."""
    request = Request(  # noqa: S310 - http or https, as was checked
        f"{url.rstrip('/')}/admin/experiment",
        data=body,
        headers={"Authorization": f"Bearer {token}", "Content-Type": "application/json"},
        method=method,
    )
    try:
        # No proxy, and nowhere else: the token goes to the server alone.
        with build_opener(ProxyHandler({}), _NoRedirects()).open(request, timeout=_SECONDS) as answer:
            return _read(answer.read(), url)
    except HTTPError as error:
        with error:
            raise _refusal(error.code, error.read(), url) from None
    except (OSError, HTTPException) as error:
        reason = getattr(error, "reason", error)
        raise FtregError(
            f"no server answers: {reason}", where=url, hint="Start it, or give its address as `url`."
        ) from None


class _NoRedirects(HTTPRedirectHandler):
    """Treats an HTTP redirect as an error."""

    def redirect_request(self, *_: Any) -> None:
        """Return None, so that urllib raises ``HTTPError``."""


def _is_address(url: str) -> bool:
    """Return True if ``url`` names a host, by http or https."""
    try:
        parts = urlsplit(url)
        (parts.hostname or "").encode("idna")
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


def _read(body: bytes, url: str) -> dict[str, Any]:
    """The server's answer; raise ``FtregError`` if ftreg did not write it."""
    try:
        answer = json.loads(body)
        if answer["weights"].keys() == answer["shares"].keys() and answer["deployment"]:
            return dict(answer)
    except (ValueError, KeyError, TypeError, AttributeError):
        pass
    raise _stranger(url)


def _refusal(status: int, body: bytes, url: str) -> FtregError:
    """The error that a refusal of the server means."""
    if status in (401, 403):
        return InputError(
            "the server refuses the admin token",
            where=url,
            hint="Give the server's as `token` or in $FTREG_ADMIN_TOKEN.",
        )
    try:
        message = str(json.loads(body)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return _stranger(url)
    return InputError(message, where=url) if status < 500 else FtregError(message, where=url)


def _stranger(url: str) -> FtregError:
    return FtregError("the server there is not one of ftreg's", where=url, hint="Give the server's address as `url`.")
