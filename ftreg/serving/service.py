"""The BentoML service of a deployment: loads it, mounts its application, says when it is ready."""

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
from ftreg.serving import weights
from ftreg.serving.deployment import RECORD, REQUIREMENTS, Deployment, model_tag, read_deployment, state_folder

logger = logging.getLogger("ftreg.serving")

# Ubuntu 22.04: its pip, which BentoML uses to install uv, may still install into the system.
_CUDA_IMAGE = "nvidia/cuda:12.8.1-cudnn-runtime-ubuntu22.04"

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

_GRACE = 30.0
"""Seconds by which BentoML's own timeout is longer than ftreg's, which frees what a request holds."""


class Mounted:
    """The ASGI application that BentoML mounts; it is filled in when the server process starts, not at import."""

    app: Callable[[Scope, Receive, Send], Awaitable[None]]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hand the request on."""
        await self.app(scope, receive, send)


def make_service(folder: Path) -> Any:
    """The BentoML service of the deployment in ``folder``, for the module that ``bentoml serve`` loads."""
    deployment = read_deployment(folder)
    mounted = Mounted()

    class Server:
        """Answers for the variants of one deployment."""

        def __init__(self) -> None:
            # BentoML imports this module in processes that only build, or only start others, too.
            from ftreg.serving.decoding.fleet import Fleet
            from ftreg.serving.experiment.record import Record
            from ftreg.serving.http.app import create_app

            self.fleet: Fleet | None = None
            self.record: Record | None = None
            state = state_folder(deployment.name)
            refs = {variant.digest: variant.ref for variant in deployment.all_variants()}
            try:
                state.mkdir(mode=0o700, parents=True, exist_ok=True)
                token = admin_token(state)
                self.record = Record(state / RECORD, deployment)
            except (FtregError, OSError, ValueError) as error:
                # To fail here would leave clients waiting: BentoML starts the process again and again.
                logger.error("%s cannot be served: %s", deployment.name, error)
                mounted.app = _refuse
                return
            self.fleet = Fleet(deployment, weights.opener(_locator(folder), refs))
            mounted.app = create_app(deployment, self.fleet, self.record, api_keys=api_keys(), admin_token=token)
            self.fleet.start()

        def __is_ready__(self) -> bool:
            """Whether the weights are loaded and their digests checked."""
            return self.fleet is not None and self.fleet.ready

        def __is_alive__(self) -> bool:
            """Whether there is hope: false once loading has failed, so that whoever watches starts another."""
            return self.fleet is not None and self.fleet.error is None

        @bentoml.on_shutdown
        def close(self) -> None:
            """End what is being answered, free the models, write the record's rest."""
            if self.fleet is not None:
                self.fleet.close()
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
    """What a container is made of: BentoML's slim Python, or CUDA's image, and the exact versions of what is imported.

    They are the versions that the deployment was built with: nothing is left to lock.
    """
    requirements = (folder / REQUIREMENTS).read_text(encoding="utf-8").split()
    if not deployment.gpus:
        return bentoml.images.Image(lock_python_packages=False).python_packages(*requirements)
    image = bentoml.images.Image(base_image=_CUDA_IMAGE, lock_python_packages=False)
    return image.system_packages("python3-pip", "ca-certificates").python_packages(*requirements)


def _settings(deployment: Deployment) -> dict[str, Any]:
    """BentoML's configuration of the service."""
    settings: dict[str, Any] = {
        # One process holds the weights, the batches and the router.
        "workers": 1,
        "http": {"host": "127.0.0.1"},
        "traffic": {"timeout": deployment.limits.timeout + _GRACE},
        # The application has metrics by variant and a record of requests of its own.
        "metrics": {"enabled": False},
        "logging": {"access": {"enabled": False}},
    }
    if deployment.gpus:
        settings["resources"] = {"gpu": deployment.gpus}
    return settings


def _locator(folder: Path) -> Callable[[str], Path]:
    """Where a digest's files are: beside the deployment, else in BentoML's store or the Bento's own."""

    def locate(digest: str) -> Path:
        beside = folder / weights.MODELS / digest.removeprefix("b3:")
        return beside if beside.is_dir() else Path(bentoml.models.get(model_tag(digest)).path)

    return locate


def api_keys() -> tuple[str, ...]:
    """The clients' keys, from ``$FTREG_API_KEYS``, separated by commas; none lets everybody in."""
    return tuple(key.strip() for key in os.environ.get("FTREG_API_KEYS", "").split(",") if key.strip())


def admin_token(state: Path) -> str:
    """The administrator's token: ``$FTREG_ADMIN_TOKEN``, else one made once and kept in ``state``."""
    given = os.environ.get("FTREG_ADMIN_TOKEN", "").strip()
    if given:
        return given
    path = state / "admin-token"
    if not path.exists() or not path.stat().st_size:
        with tempfile.NamedTemporaryFile("w", dir=state, encoding="ascii") as fresh:  # its owner's alone
            fresh.write(secrets.token_urlsafe(32) + "\n")
            fresh.flush()
            if path.exists() and not path.stat().st_size:  # the machine went down just after it was made
                path.unlink()
            with contextlib.suppress(FileExistsError):  # another server was faster
                path.hardlink_to(fresh.name)
    return path.read_text(encoding="ascii").strip()


async def _refuse(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer every request with an error of OpenAI's form."""
    from starlette.responses import JSONResponse

    message = "the server could not start; its log says why"
    error = {"message": message, "type": "server_error", "param": None, "code": "load_failed"}
    await JSONResponse({"error": error}, 503, {"Retry-After": "10"})(scope, receive, send)
