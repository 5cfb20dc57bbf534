"""The router: which version answers a request, and its shadows after it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress

from starlette.requests import Request

from ftreg.serving.decoding.fleet import Fleet
from ftreg.serving.deployment import Deployment, Variant
from ftreg.serving.errors import ApiError, unavailable
from ftreg.serving.experiment.routing import bucket
from ftreg.serving.http.exchange import Books, Exchange, Route, Task
from ftreg.serving.http.guard import Visit


class Router:
    """Deals requests to the versions of a deployment.

    Args:
        deployment: What is served.
        fleet: Its models.
        books: Where exchanges are written down.
    """

    def __init__(self, deployment: Deployment, fleet: Fleet, books: Books) -> None:
        self._deployment = deployment
        self._fleet = fleet
        self._books = books
        self._variants = {variant.ref: variant for variant in deployment.all_variants()}
        self._shadows: set[asyncio.Task[None]] = set()

    def exchange(self, request: Request, model: str, user: str | None, task: Task) -> Exchange:
        """Choose who answers; raise ``ApiError`` where there is no such model (404) or none is loaded (503).

        The version is that of the key's bucket, or the one that ``model`` names. If it fails, the request fails: to
        let another version answer would count its answers for the wrong one.
        """
        self.check_ready()
        visit = Visit.of(request)
        allocation = self._books.record.allocation
        key = self._key(request, visit, user)
        if model == self._deployment.name:
            dealt = bucket(self._deployment.salt, self._deployment.experiment, key)
            variant = self._variants[allocation.ref(dealt)]
        else:
            variant = self.variant(model)
        visit.routed = True
        visit.headers += [(b"x-ftreg-variant", variant.ref.encode()), (b"x-ftreg-digest", variant.digest.encode())]
        if model != self._deployment.name:
            return self._exchange(visit, Route("pinned", variant.ref, variant.digest, allocation.epoch, key), task)
        route = Route("experiment", variant.ref, variant.digest, allocation.epoch, key)
        return self._exchange(visit, route, task, lambda: self._ask_shadows(visit, route, task))

    def variant(self, ref: str) -> Variant:
        """The version that goes by ``ref``; raise ``ApiError`` (404) where there is none."""
        if ref not in self._variants:
            known = ", ".join([self._deployment.name, *self._variants])
            message = f"there is no model {ref[:100]!r} here; known: {known}"
            raise ApiError(404, message, code="model_not_found", param="model")
        return self._variants[ref]

    def check_ready(self) -> None:
        """Raise ``ApiError`` (503) while the models are not loaded."""
        if self._fleet.error is not None:
            raise unavailable(
                "the models could not be loaded, or broke down; the server's log says why", code="load_failed"
            )
        if not self._fleet.ready:
            raise unavailable("the models are being loaded", code="loading")

    def _exchange(self, visit: Visit, route: Route, task: Task, then: Callable[[], None] | None = None) -> Exchange:
        return Exchange(visit, route, task, self._fleet, self._deployment.limits, self._books, then)

    def _key(self, request: Request, visit: Visit, user: str | None) -> str:
        """What is dealt: the user if the request says who that is, else the API key, else the request.

        Only a key that the server asks for counts: clients that must send one send all the same one elsewhere.
        """
        header = request.headers.get(self._deployment.key_header, "")
        named = header.encode("latin-1").decode("utf-8", "replace").strip()
        return named or user or visit.api_key or visit.id

    def _ask_shadows(self, visit: Visit, route: Route, task: Task) -> None:
        """Ask the deployment's shadows too. The client's answer is complete, and nobody waits for theirs."""
        for shadow in self._deployment.shadows:
            unheard = Exchange(
                Visit(id=visit.id),
                Route("shadow", shadow.ref, shadow.digest, route.epoch, route.unit),
                Task(task.prompts, task.settings),
                self._fleet,
                self._deployment.limits,
                self._books,
            )
            running = asyncio.get_running_loop().create_task(_drain(unheard))
            self._shadows.add(running)
            running.add_done_callback(self._shadows.discard)


async def _drain(exchange: Exchange) -> None:
    with suppress(ApiError):
        async with exchange:
            await exchange.open()
            while await exchange.next() is not None:
                pass
