"""Runs a server in processes of its own, and waits until it is ready."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from ftreg.core.errors import FtregError

_POLL_SECONDS = 0.2
_REQUEST_SECONDS = 5.0
_STOP_SECONDS = 20.0
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # without a proxy: the server is on this machine


def free_port() -> int:
    """Return a port of the loopback interface on which nothing listens."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


@contextmanager
def run_server(
    command: Sequence[str],
    port: int,
    *,
    log: Path,
    environment: Mapping[str, str] | None = None,
    path: str = "/readyz",
    statuses: Collection[int] = (200,),
    timeout: float | None = None,
) -> Iterator[str]:
    """Run ``python -m COMMAND`` during the body, and yield the server's URL once it is ready.

    Args:
        command: The module and its arguments.
        port: The port on which it will listen.
        log: File for its output.
        environment: Its environment; by default this process's own.
        path: The route that is asked until the server is ready.
        statuses: The HTTP statuses by which it is ready.
        timeout: Seconds to wait until it is ready; None for as long as it runs.

    Raises:
        FtregError: The server ended, or was not ready in time; its log says why.
    """
    url = f"http://127.0.0.1:{port}"
    with log.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", *command],
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**(os.environ if environment is None else environment), "BENTOML_DO_NOT_TRACK": "True"},
            start_new_session=True,
        )
    try:
        deadline = None if timeout is None else time.monotonic() + timeout
        while _status(url + path) not in statuses:
            if process.poll() is not None or (deadline is not None and time.monotonic() > deadline):
                raise FtregError("the server did not start", where=str(log), hint="The last lines of its log say why.")
            time.sleep(_POLL_SECONDS)
        yield url
    finally:
        _stop(process)


def _status(url: str) -> int | None:
    """Return the HTTP status of ``url``; None if nothing answers."""
    try:
        with _DIRECT.open(url, timeout=_REQUEST_SECONDS) as answer:
            status: int = answer.status
            return status
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return None


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End a server with all its processes, which share a session since BentoML starts its workers as children."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(timeout=_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
