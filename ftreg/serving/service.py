"""The BentoML service of a deployment: loads its models, mounts its application, and reports its health."""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import tempfile
from collections.abc import Awaitable, Callable, MutableMapping
from pathlib import Path
from typing import Any

import bentoml
import bentoml.images

from ftreg.core.errors import FtregError
from ftreg.serving import errors, weights
from ftreg.serving.deployment import (
    ADMIN_TOKEN,
    RECORD,
    REQUIREMENTS,
    Deployment,
    model_tag,
    read_deployment,
    state_folder,
)

logger = logging.getLogger("ftreg.serving")

# BentoML installs uv with the system's pip, which newer releases than Ubuntu 22.04 do not allow.
_CUDA_IMAGE = "nvidia/cuda:12.8.1-cudnn-runtime-ubuntu22.04"

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

_EXTRA_SECONDS = 30.0  # BentoML's timeout comes later than ftreg's own, which frees the request's places


class Mounted:
    """The ASGI application that BentoML mounts at import; ``app`` is set when the server process starts."""

    app: Callable[[Scope, Receive, Send], Awaitable[None]]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on to ``app``."""
        await self.app(scope, receive, send)


def make_service(folder: Path) -> Any:
    """Return the BentoML service of the deployment in ``folder``, for the module that ``bentoml serve`` loads."""
    deployment = read_deployment(folder)
    mounted = Mounted()

    class Server:
        """The server of one deployment."""

        def __init__(self) -> None:
            # Imported here, since BentoML also imports this module in processes that only build or supervise.
            from ftreg.serving.decoding.pool import ModelPool
            from ftreg.serving.experiment.record import ExperimentRecord
            from ftreg.serving.http.app import create_app
            from ftreg.serving.http.responses import error_response

            self.pool: ModelPool | None = None
            self.record: ExperimentRecord | None = None
            state = state_folder(deployment.name)
            refs = {variant.digest: variant.ref for variant in deployment.all_variants()}
            try:
                state.mkdir(mode=0o700, parents=True, exist_ok=True)
                token = admin_token(state)
                self.record = ExperimentRecord(state / RECORD, deployment)
            except (FtregError, OSError, ValueError) as error:
                # Raising here would leave clients waiting, because BentoML restarts the process again and again.
                logger.error("%s cannot be served: %s", deployment.name, error)
                message = "the server could not start; its log says why"
                mounted.app = error_response(errors.unavailable(message, code="load_failed", retry_after=10))
                return
            self.pool = ModelPool(deployment, weights.opener(_locator(folder), refs))
            mounted.app = create_app(deployment, self.pool, self.record, api_keys=api_keys(), admin_token=token)
            self.pool.start()

        def __is_ready__(self) -> bool:
            """Return True once the models are loaded and their digests checked."""
            return self.pool is not None and self.pool.ready

        def __is_alive__(self) -> bool:
            """Return True while loading can still succeed; after a failure, a supervisor should restart the server."""
            return self.pool is not None and self.pool.error is None

        @bentoml.on_shutdown
        def close(self) -> None:
            """End all requests, free the models, and finish writing the record."""
            if self.pool is not None:
                self.pool.close()
            if self.record is not None:
                self.record.close()

    service = bentoml.service(
        name=deployment.name,
        image=_image(folder, deployment),
        envs=[{"name": "BENTOML_HOST", "value": "0.0.0.0"}],  # noqa: S104 - read in containers, which publish ports
        **_settings(deployment),
    )(Server)
    service.mount_asgi_app(mounted)
    return service


def _image(folder: Path, deployment: Deployment) -> bentoml.images.Image:
    """Return the container image: BentoML's slim Python or a CUDA image, with the pinned requirements.

    They are the exact versions that the deployment was built with, so there is nothing left to lock.
    """
    requirements = (folder / REQUIREMENTS).read_text(encoding="utf-8").split()
    if not deployment.gpus:
        return bentoml.images.Image(lock_python_packages=False).python_packages(*requirements)
    image = bentoml.images.Image(base_image=_CUDA_IMAGE, lock_python_packages=False)
    return image.system_packages("python3-pip", "ca-certificates").python_packages(*requirements)


def _settings(deployment: Deployment) -> dict[str, Any]:
    """Return BentoML's configuration of the service."""
    settings: dict[str, Any] = {
        # One process holds the models, the batches and the router.
        "workers": 1,
        "http": {"host": "127.0.0.1"},
        "traffic": {"timeout": deployment.limits.timeout + _EXTRA_SECONDS},
        # The application has its own metrics, by variant, and its own record of requests.
        "metrics": {"enabled": False},
        "logging": {"access": {"enabled": False}},
    }
    if deployment.gpus:
        settings["resources"] = {"gpu": deployment.gpus}
    return settings


def _locator(folder: Path) -> Callable[[str], Path]:
    """Return a function that finds the folder of a digest: beside the deployment, else in BentoML's model store."""

    def locate(digest: str) -> Path:
        beside = folder / weights.MODELS / digest.removeprefix("b3:")
        return beside if beside.is_dir() else Path(bentoml.models.get(model_tag(digest)).path)

    return locate


def api_keys() -> tuple[str, ...]:
    """Return the accepted API keys, from ``$FTREG_API_KEYS``, separated by commas; without any, none is required."""
    return tuple(key.strip() for key in os.environ.get("FTREG_API_KEYS", "").split(",") if key.strip())


def admin_token(state: Path) -> str:
    """Return the administrator's token: ``$FTREG_ADMIN_TOKEN``, else one that is made once and kept in ``state``."""
    given = os.environ.get("FTREG_ADMIN_TOKEN", "").strip()
    if given:
        return given
    path = state / ADMIN_TOKEN
    if not path.exists() or not path.stat().st_size:
        with tempfile.NamedTemporaryFile("w", dir=state, encoding="ascii") as fresh:  # readable by its owner only
            fresh.write(secrets.token_urlsafe(32) + "\n")
            fresh.flush()
            if path.exists() and not path.stat().st_size:  # the machine crashed just after the file was made
                path.unlink()
            with contextlib.suppress(FileExistsError):  # another server was faster
                path.hardlink_to(fresh.name)
    return path.read_text(encoding="ascii").strip()
