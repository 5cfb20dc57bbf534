"""Starts real ``bentoml serve`` processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import httpx

from ftreg.cli.quickstart_serving import free_port


@contextmanager
def serving(
    *command: str | Path, log: Path, env: Mapping[str, str], wait: bool = True, timeout: float = 120
) -> Iterator[str]:
    """Run ``python -m COMMAND --port ...``; yield its URL once it is ready, and end all its processes afterwards."""
    port = free_port()
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("FTREG_", "BENTOML_"))}
    environment |= {"BENTOML_DO_NOT_TRACK": "True", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", **env}
    with log.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", *map(str, command), "--port", str(port)],
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
        )
        url = f"http://127.0.0.1:{port}"
        try:
            if wait:
                wait_until_ready(process, url, log, timeout)
            yield url
        finally:
            os.killpg(process.pid, signal.SIGTERM)
            try:
                process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)


def wait_until_ready(process: subprocess.Popen[bytes], url: str, log: Path, timeout: float) -> None:
    """Poll readiness; fail with the server's log where it ends or takes too long."""
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if httpx.get(f"{url}/readyz", timeout=5).status_code == 200:
                return
        except httpx.HTTPError:
            pass
        time.sleep(0.2)
    raise AssertionError(f"the server did not get ready:\n{log.read_text()[-4000:]}")
