"""The router: chooses the version that answers a request, and sends the request to the shadows afterwards."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress

from starlette.requests import Request

from ftreg.serving.decoding.pool import ModelPool
from ftreg.serving.deployment import Deployment, Variant
from ftreg.serving.errors import ApiError, unavailable
from ftreg.serving.experiment.entry import RouteKind
from ftreg.serving.experiment.routing import bucket
from ftreg.serving.http.context import RequestContext
from ftreg.serving.http.exchange import Assignment, Exchange, GenerationTask
from ftreg.serving.http.recorder import Recorder


class Router:
    """Assigns requests to the versions of a deployment.

    Args:
        deployment: The deployment.
        pool: Its models.
        recorder: Records exchanges, and knows the current allocation.
    """

    def __init__(self, deployment: Deployment, pool: ModelPool, recorder: Recorder) -> None:
        self._deployment = deployment
        self._pool = pool
        self._recorder = recorder
        self._variants = {variant.ref: variant for variant in deployment.all_variants()}
        self._shadows: set[asyncio.Task[None]] = set()

    def exchange(self, request: Request, model: str, user: str | None, task: GenerationTask) -> Exchange:
        """Choose the version that answers.

        It is the version that owns the key's bucket, or the one that ``model`` names. If it fails, the request fails:
        another version's answer would count for the wrong one.

        Raises:
            ApiError: There is no such model (404), or the models are not loaded (503).
        """
        self.check_ready()
        context = RequestContext.of(request)
        allocation = self._recorder.record.allocation
        key = self._key(request, context, user)
        pinned = model != self._deployment.name
        if pinned:
            variant = self.variant(model)
        else:
            variant = self._variants[allocation.ref(bucket(self._deployment.salt, self._deployment.experiment, key))]
        context.routed = True
        context.headers += [(b"x-ftreg-variant", variant.ref.encode()), (b"x-ftreg-digest", variant.digest.encode())]
        route: RouteKind = "pinned" if pinned else "experiment"
        assignment = Assignment(route, variant.ref, variant.digest, allocation.epoch, key)
        run_shadows = None if pinned else lambda: self._run_shadows(context, assignment, task)
        return self._exchange(context, assignment, task, run_shadows)

    def variant(self, ref: str) -> Variant:
        """Return the variant or shadow called ``ref``; raise ``ApiError`` (404) if there is none."""
        if ref not in self._variants:
            known = ", ".join([self._deployment.name, *self._variants])
            message = f"there is no model {ref[:100]!r} here; known: {known}"
            raise ApiError(404, message, code="model_not_found", param="model")
        return self._variants[ref]

    def check_ready(self) -> None:
        """Raise ``ApiError`` (503) unless the models are loaded and working."""
        if self._pool.error is not None:
            raise unavailable(
                "the models could not be loaded, or have stopped working; the server's log says why", code="load_failed"
            )
        if not self._pool.ready:
            raise unavailable("the models are being loaded", code="loading")

    def _exchange(
        self,
        context: RequestContext,
        assignment: Assignment,
        task: GenerationTask,
        on_answered: Callable[[], None] | None = None,
    ) -> Exchange:
        return Exchange(context, assignment, task, self._pool, self._deployment.limits, self._recorder, on_answered)

    def _key(self, request: Request, context: RequestContext, user: str | None) -> str:
        """Return the key to assign by: the user if the request names one, else the API key, else the request's id.

        An API key counts only if the server requires one: clients that must send some key send the same one everywhere.
        """
        header = request.headers.get(self._deployment.key_header, "")
        named = header.encode("latin-1").decode("utf-8", "replace").strip()
        return named or user or context.api_key or context.id

    def _run_shadows(self, context: RequestContext, assignment: Assignment, task: GenerationTask) -> None:
        """Start the deployment's shadows on the same prompts; the client already has its answer."""
        for shadow in self._deployment.shadows:
            exchange = self._exchange(
                RequestContext(id=context.id),
                Assignment("shadow", shadow.ref, shadow.digest, assignment.epoch, assignment.unit),
                GenerationTask(task.prompts, task.params),
            )
            running = asyncio.get_running_loop().create_task(_discard(exchange))
            self._shadows.add(running)  # the event loop itself keeps no strong reference to its tasks
            running.add_done_callback(self._shadows.discard)


async def _discard(exchange: Exchange) -> None:
    """Run an exchange to its end and discard the answer."""
    with suppress(ApiError):
        async with exchange:
            await exchange.open()
            while await exchange.next() is not None:
                pass
