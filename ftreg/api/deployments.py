"""Deployments: packages versions for BentoML, or serves one from the registry."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftreg.api.opening import opened
from ftreg.core.types import Progress
from ftreg.registry import Registry

if TYPE_CHECKING:
    from ftreg.serving.package import Package


def deploy(
    name: str | None = None,
    variants: Mapping[str, float] | None = None,
    *,
    file: str | Path | None = None,
    registry: Registry | None = None,
    progress: Progress | None = None,
    **settings: Any,
) -> Package:
    """Package versions as the Bento ``name``, which ``bentoml serve NAME:latest`` serves.

    Args:
        name: The deployment's name.
        variants: Versions with their weights; the first is the control.
        file: A deployment.yaml; the arguments replace what it says.
        registry: Where to read the versions; by default the default registry.
        progress: Where to report progress.
        **settings: Further keys of a deployment.yaml, such as ``shadows``, ``engine``, ``gpus`` and ``limits``.

    Raises:
        InputError: A key, a version or an engine does not exist or cannot be used.
        MissingExtra: BentoML is not installed.
    """
    with opened(registry, progress) as context:
        from ftreg.serving.package import build  # an extra brings what it needs
        from ftreg.serving.planning import plan, read_spec

        raw: dict[str, Any] = read_spec(Path(file)) if file is not None else {}
        given = {"name": name, "variants": dict(variants) if variants else None, **settings}
        raw |= {key: value for key, value in given.items() if value is not None}
        deployment, sources = plan(context, raw, where="deployment" if file is None else str(file))
        return build(context, deployment, sources)


def serve(
    ref: str,
    *,
    host: str = "127.0.0.1",
    port: int = 3000,
    engine: str | None = None,
    gpus: int = 0,
    registry: Registry | None = None,
    progress: Progress | None = None,
) -> int:
    """Serve the version ``ref`` from the registry until the server ends; return its exit code.

    Clients ask for the model by the version's name. To be called from the main thread: SIGTERM and SIGHUP end the
    server.
    """
    with opened(registry, progress) as context, tempfile.TemporaryDirectory(prefix="ftreg-serve-") as folder:
        from ftreg.serving.deployment import state_folder
        from ftreg.serving.package import write_served
        from ftreg.serving.planning import plan

        version = context.registry.get(ref)
        raw = {"name": version.name, "variants": {version.ref: 1}, "engine": engine, "gpus": gpus}
        deployment, sources = plan(context, raw, where="serve")
        write_served(context, deployment, sources, Path(folder))
        context.progress.say(f"serving {version.ref} as {version.name}: http://{host}:{port}/v1")
        # A state folder of its own: a deployment of the same name has another record.
        environment = {**os.environ, "FTREG_STATE": str(state_folder(version.name) / "serve")}
        command = [sys.executable, "-m", "bentoml", "serve", "service:service", "--working-dir", folder]
        return _run([*command, "--host", host, "--port", str(port)], environment)


def _run(command: list[str], environment: Mapping[str, str]) -> int:
    """Run a server until it ends, or until this process is told to end; return its exit code."""
    process = subprocess.Popen(command, env=environment)
    ending = [signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as under nohup
        ending.append(signal.SIGHUP)
    before = {number: signal.signal(number, lambda *_: process.terminate()) for number in ending}
    # Ctrl-C reaches the server too, which ends on it.
    before[signal.SIGINT] = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        return process.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
