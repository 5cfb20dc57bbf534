"""The HTTP application of a deployment: OpenAI's API, ftreg's own, feedback, administration, metrics."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from ftreg.core.errors import FtregError, InputError, UnknownName
from ftreg.serving import errors
from ftreg.serving.decoding.pool import ModelPool
from ftreg.serving.deployment import Deployment, Variant
from ftreg.serving.errors import ApiError
from ftreg.serving.experiment.record import ExperimentRecord
from ftreg.serving.http.auth import check_admin_token
from ftreg.serving.http.body import read_body
from ftreg.serving.http.context import RequestContext
from ftreg.serving.http.exchange import GenerationTask
from ftreg.serving.http.metrics import Metrics
from ftreg.serving.http.middleware import RequestMiddleware
from ftreg.serving.http.recorder import Recorder
from ftreg.serving.http.replies import ChatRenderer, CompletionRenderer, GenerateRenderer, StreamRenderer, to_json
from ftreg.serving.http.requests import (
    ChatRequest,
    CompletionRequest,
    FeedbackRequest,
    GenerateRequest,
    GenerationRequest,
    WeightsRequest,
    parse,
)
from ftreg.serving.http.responses import EventStream, error_response, whole_response
from ftreg.serving.http.router import Router


def create_app(
    deployment: Deployment,
    pool: ModelPool,
    record: ExperimentRecord,
    *,
    api_keys: Collection[str] = (),
    admin_token: str,
) -> Starlette:
    """Make the application. The caller starts and closes ``pool`` and ``record``.

    Args:
        deployment: The deployment to serve.
        pool: Its models.
        record: The record of its experiment.
        api_keys: The accepted API keys; if empty, none is required.
        admin_token: The token that is required to see and change the experiment.
    """
    metrics = Metrics(deployment, pool, record)
    endpoints = _Endpoints(deployment, pool, Recorder(record, metrics), admin_token)
    app = Starlette(
        routes=[
            Route("/v1/models", endpoints.models),
            Route("/v1/models/{model:path}", endpoints.model),
            Route("/v1/chat/completions", endpoints.chat, methods=["POST"]),
            Route("/v1/completions", endpoints.completions, methods=["POST"]),
            Route("/api/v1/generate", endpoints.generate, methods=["POST"]),
            Route("/v1/feedback", endpoints.feedback, methods=["POST"]),
            Route("/admin/experiment", endpoints.experiment, methods=["GET", "PUT"]),
            Route("/metrics", endpoints.metrics),
        ],
        middleware=[
            Middleware(
                RequestMiddleware,
                experiment=deployment.experiment,
                api_keys=api_keys,
                count_refused=metrics.count_refused,
            )
        ],
        exception_handlers={
            ApiError: endpoints.handle_api_error,
            HTTPException: endpoints.handle_http_exception,
            ClientDisconnect: endpoints.handle_disconnect,
        },
    )
    app.router.redirect_slashes = False
    return app


class _Endpoints:
    """The endpoints of the application, and its exception handlers."""

    def __init__(self, deployment: Deployment, pool: ModelPool, recorder: Recorder, admin_token: str) -> None:
        self._deployment = deployment
        self._pool = pool
        self._record = recorder.record
        self._metrics = recorder.metrics
        self._router = Router(deployment, pool, recorder)
        self._admin_token = admin_token
        self._created = int(time.time())

    # For clients.

    async def chat(self, request: Request) -> Response:
        """Answer a conversation."""
        body = parse(ChatRequest, await read_body(request, self._deployment.limits))
        return await self._generate(request, body, ChatRenderer())

    async def completions(self, request: Request) -> Response:
        """Complete prompts."""
        body = parse(CompletionRequest, await read_body(request, self._deployment.limits))
        return await self._generate(request, body, CompletionRenderer())

    async def generate(self, request: Request) -> Response:
        """Answer one prompt, in ftreg's own format."""
        body = parse(GenerateRequest, await read_body(request, self._deployment.limits))
        model = body.requested_model or self._deployment.name
        exchange = self._router.exchange(request, model, body.user, self._task(body))
        return await whole_response(request, exchange, GenerateRenderer(model))

    async def models(self, _request: Request) -> Response:
        """List the deployment, then its versions."""
        self._router.check_ready()
        listed = [self._describe_deployment(), *map(self._describe, self._deployment.all_variants())]
        return _json({"object": "list", "data": listed})

    async def model(self, request: Request) -> Response:
        """Describe one model."""
        self._router.check_ready()
        name = request.path_params["model"]
        if name == self._deployment.name:
            return _json(self._describe_deployment())
        return _json(self._describe(self._router.variant(name)))

    async def feedback(self, request: Request) -> Response:
        """Store the score of an answer; it is on disk when this returns."""
        body = parse(FeedbackRequest, await read_body(request, self._deployment.limits))
        id_ = body.request_id.removeprefix("chatcmpl-").removeprefix("cmpl-")
        try:
            await asyncio.wrap_future(self._record.feedback(id_, body.score, body.comment))
        except UnknownName:
            message = f"no answer has the id {body.request_id!r}; take it from the answer's id or request_id"
            raise ApiError(404, message, code="request_not_found", param="request_id") from None
        except FtregError:
            raise errors.unavailable("the feedback could not be stored", code="record_failed") from None
        return _json({"object": "feedback", "request_id": id_, "score": body.score, "comment": body.comment})

    async def metrics(self, _request: Request) -> Response:
        """Return the metrics for Prometheus."""
        return Response(self._metrics.text(), media_type="text/plain; version=0.0.4")

    # For administrators.

    async def experiment(self, request: Request) -> Response:
        """Show the experiment; PUT changes the variants' weights. Requests in flight are not affected."""
        check_admin_token(request.headers, self._admin_token)
        if request.method == "PUT":
            await self._change_weights(request)
        return _json(self._describe_experiment())

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

    # Exception handlers.

    async def handle_api_error(self, request: Request, error: Exception) -> Response:
        """Return an ``ApiError`` as a response."""
        assert isinstance(error, ApiError)
        if not RequestContext.of(request).routed:
            self._metrics.count_refused(error.code)
        return error_response(error)

    async def handle_http_exception(self, request: Request, error: Exception) -> Response:
        """Return an error that Starlette found, such as an unknown path, in the same format as all others."""
        assert isinstance(error, HTTPException)
        code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code, "invalid_request")
        message = f"{request.method} {request.url.path}: {error.detail}"
        api_error = ApiError(error.status_code, message, code=code, headers=error.headers)
        return await self.handle_api_error(request, api_error)

    async def handle_disconnect(self, request: Request, _error: Exception) -> Response:
        """Count a client that disconnected before its request was complete."""
        return await self.handle_api_error(request, errors.client_gone())

    # Shared by the above.

    async def _generate(self, request: Request, body: GenerationRequest, renderer: StreamRenderer) -> Response:
        exchange = self._router.exchange(request, body.model, body.user, self._task(body))
        if body.stream:
            return EventStream(exchange, renderer, with_usage=body.with_usage)
        return await whole_response(request, exchange, renderer)

    def _task(self, body: GenerationRequest) -> GenerationTask:
        prompts = body.prompts()
        params = body.sampling_params(self._deployment.limits, len(prompts))
        return GenerationTask(prompts, params, bool(body.stream))

    def _describe_experiment(self) -> dict[str, Any]:
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
        parents = {parent.role: parent.digest for parent in self._pool.source(variant.ref).manifest.parents}
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
