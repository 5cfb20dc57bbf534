"""The HTTP application of a deployment: OpenAI's API, ftreg's own, feedback, administration, metrics."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Coroutine
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from ftreg.core.errors import FtregError, InputError, UnknownName
from ftreg.serving import errors
from ftreg.serving.decoding.fleet import Fleet
from ftreg.serving.deployment import Deployment, Variant
from ftreg.serving.errors import ApiError
from ftreg.serving.experiment.record import Record
from ftreg.serving.http.answering import Stream, answer
from ftreg.serving.http.exchange import Books, Task
from ftreg.serving.http.guard import Guard, Visit, bearer, read_body, respond, same
from ftreg.serving.http.metrics import Metrics
from ftreg.serving.http.replies import ChatForm, Form, PlainForm, TextForm, to_json
from ftreg.serving.http.router import Router
from ftreg.serving.http.wire import (
    ChatRequest,
    CompletionRequest,
    FeedbackRequest,
    Generate,
    GenerateRequest,
    WeightsRequest,
    parse,
)

Endpoint = Callable[[Request], Coroutine[Any, Any, Response]]


def create_app(
    deployment: Deployment, fleet: Fleet, record: Record, *, api_keys: Collection[str] = (), admin_token: str
) -> Starlette:
    """Make the application.

    Args:
        deployment: What is served.
        fleet: Its models; started and closed by who made it.
        record: Its experiment's; closed by who made it.
        api_keys: Keys that clients must have one of; none lets everybody in.
        admin_token: Needed to see and change the experiment.
    """
    metrics = Metrics(deployment, fleet, record)
    server = _Server(deployment, fleet, record, metrics, admin_token)
    app = Starlette(
        routes=[
            Route("/v1/models", server.models),
            Route("/v1/models/{model:path}", server.model),
            Route("/v1/chat/completions", server.chat, methods=["POST"]),
            Route("/v1/completions", server.completions, methods=["POST"]),
            Route("/api/v1/generate", server.generate, methods=["POST"]),
            Route("/v1/feedback", server.feedback, methods=["POST"]),
            Route("/admin/experiment", server.experiment, methods=["GET", "PUT"]),
            Route("/metrics", server.metrics),
        ],
        middleware=[
            Middleware(Guard, experiment=deployment.experiment, api_keys=api_keys, count_refused=metrics.refuse)
        ],
        exception_handlers={
            ApiError: server.refuse,
            HTTPException: server.refuse_http,
            ClientDisconnect: server.refuse_gone,
        },
    )
    app.router.redirect_slashes = False
    return app


class _Server:
    """The endpoints."""

    def __init__(
        self, deployment: Deployment, fleet: Fleet, record: Record, metrics: Metrics, admin_token: str
    ) -> None:
        self._deployment = deployment
        self._fleet = fleet
        self._record = record
        self._metrics = metrics
        self._router = Router(deployment, fleet, Books(record, metrics))
        self._admin_token = admin_token
        self._created = int(time.time())

    # What clients call.

    async def chat(self, request: Request) -> Response:
        """Answer a chat."""
        body = parse(ChatRequest, await read_body(request, self._deployment.limits))
        return await self._generate(request, body, ChatForm())

    async def completions(self, request: Request) -> Response:
        """Complete prompts."""
        body = parse(CompletionRequest, await read_body(request, self._deployment.limits))
        return await self._generate(request, body, TextForm())

    async def generate(self, request: Request) -> Response:
        """Answer a prompt, in ftreg's own form."""
        body = parse(GenerateRequest, await read_body(request, self._deployment.limits))
        model = body.wanted or self._deployment.name
        exchange = self._router.exchange(request, model, body.user, self._task(body))
        return await answer(request, exchange, PlainForm(model))

    async def models(self, _request: Request) -> Response:
        """List the deployment, then its versions."""
        self._router.check_ready()
        listed = [self._describe_deployment(), *map(self._describe, self._deployment.all_variants())]
        return _json({"object": "list", "data": listed})

    async def model(self, request: Request) -> Response:
        """Describe one model."""
        self._router.check_ready()
        name = request.path_params["model"]
        described = name == self._deployment.name
        return _json(self._describe_deployment() if described else self._describe(self._router.variant(name)))

    async def feedback(self, request: Request) -> Response:
        """Take a score of an answer; it is stored when this returns."""
        body = parse(FeedbackRequest, await read_body(request, self._deployment.limits))
        id_ = body.request_id.removeprefix("chatcmpl-").removeprefix("cmpl-")
        try:
            await asyncio.wrap_future(self._record.feedback(id_, body.score, body.comment))
        except UnknownName:
            message = f"no answer has the id {body.request_id!r}; it is in the answer, as id or request_id"
            raise ApiError(404, message, code="request_not_found", param="request_id") from None
        except FtregError:
            raise errors.unavailable("the feedback could not be stored", code="record_failed") from None
        return _json({"object": "feedback", "request_id": id_, "score": body.score, "comment": body.comment})

    async def metrics(self, _request: Request) -> Response:
        """Metrics for Prometheus."""
        return Response(self._metrics.text(), media_type="text/plain; version=0.0.4")

    # What administrators call.

    async def experiment(self, request: Request) -> Response:
        """Show the experiment; PUT changes the weights of variants, and requests under way are not affected."""
        given = bearer(request.headers)
        if given is None or not same(given, self._admin_token):
            raise errors.unauthorized("the administrator's token is needed: Authorization: Bearer TOKEN")
        if request.method == "PUT":
            await self._change_weights(request)
        return _json(self._show_experiment())

    async def _change_weights(self, request: Request) -> None:
        body = parse(WeightsRequest, await read_body(request, self._deployment.limits))
        try:
            await asyncio.to_thread(self._record.change_weights, body.weights)
        except InputError as error:
            raise errors.bad_request(" ".join(str(error).split()), param="weights") from None
        except FtregError as error:
            raise errors.unavailable(
                f"the weights could not be stored: {error.message}", code="record_failed"
            ) from None

    # Errors.

    async def refuse(self, request: Request, error: Exception) -> Response:
        """Tell an error."""
        assert isinstance(error, ApiError)
        if not Visit.of(request).routed:
            self._metrics.refuse(error.code)
        return respond(error)

    async def refuse_http(self, request: Request, error: Exception) -> Response:
        """Tell an error that the routing of paths found."""
        assert isinstance(error, HTTPException)
        code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code, "invalid_request")
        message = f"{request.method} {request.url.path}: {error.detail}"
        return await self.refuse(request, ApiError(error.status_code, message, code=code, headers=error.headers))

    async def refuse_gone(self, request: Request, _error: Exception) -> Response:
        """Note that the client went before its request was complete."""
        return await self.refuse(request, errors.client_gone())

    # What they share.

    async def _generate(self, request: Request, body: Generate, form: Form) -> Response:
        exchange = self._router.exchange(request, body.model, body.user, self._task(body))
        if body.stream:
            return Stream(exchange, form, with_usage=body.with_usage)
        return await answer(request, exchange, form)

    def _task(self, body: Generate) -> Task:
        prompts = body.prompts()
        return Task(prompts, body.settings(self._deployment.limits, len(prompts)), bool(body.stream))

    def _show_experiment(self) -> dict[str, Any]:
        allocation = self._record.allocation
        return {
            "experiment": self._deployment.experiment,
            "deployment": self._deployment.name,
            "epoch": allocation.epoch,
            "weights": dict(allocation.weights),
            "shares": dict(allocation.shares),
            "variants": {variant.ref: variant.digest for variant in self._deployment.variants},
            "shadows": {shadow.ref: shadow.digest for shadow in self._deployment.shadows},
        }

    def _describe_deployment(self) -> dict[str, Any]:
        allocation = self._record.allocation
        route = {
            "experiment": self._deployment.experiment,
            "epoch": allocation.epoch,
            "shares": dict(allocation.shares),
            "shadows": [shadow.ref for shadow in self._deployment.shadows],
        }
        return {**self._model(self._deployment.name), "digest": None, "parent": None, "route": route}

    def _describe(self, variant: Variant) -> dict[str, Any]:
        parents = {parent.role: parent.digest for parent in self._fleet.source(variant.ref).manifest.parents}
        made_from = next((digest for role, digest in parents.items() if role != "dataset"), None)
        role = "shadow" if variant in self._deployment.shadows else "variant"
        return {
            **self._model(variant.ref),
            "digest": variant.digest,
            "parent": made_from,
            "parents": parents,
            "route": {"role": role, "share": self._record.allocation.shares.get(variant.ref, 0.0)},
        }

    def _model(self, name: str) -> dict[str, Any]:
        return {"id": name, "object": "model", "created": self._created, "owned_by": "ftreg"}


def _json(content: dict[str, Any]) -> Response:
    return Response(to_json(content), media_type="application/json")
