from __future__ import annotations

import asyncio
import time
from pathlib import Path

from ftreg.serving.decoding.generation import Generation
from ftreg.serving.decoding.sampling import SamplingParams
from ftreg.serving.deployment import Deployment
from ftreg.serving.experiment.routing import bucket
from tests.serving.client import ADMIN, Served, error_of, serving
from tests.serving.fakes import ENGINES, HANG_SECONDS, deployment, digest, variant, wait_for

HELLO = {"model": "bot", "messages": [{"role": "user", "content": "hello"}], "temperature": 0}
TEXT = {"model": "bot", "prompt": "hello", "temperature": 0}
STREAM = {"stream": True, "stream_options": {"include_usage": True}}


def key_for(served: Served, ref: str) -> str:
    """A user who is assigned to ``ref``."""
    keys = (f"user-{number}" for number in range(10_000))
    return next(key for key in keys if served.record.allocation.ref(bucket("salt", "trial", key)) == ref)


def test_a_key_stays_on_its_variant_and_decides_alone(served: Served) -> None:
    """The header's user takes precedence over the body's; both are assigned by the hash, non-ASCII names too."""
    for number in range(20):
        key = f"kéy-{number}"
        expected = served.record.allocation.ref(bucket("salt", "trial", key))
        in_body = served.ask("/v1/completions", {**TEXT, "user": key})
        assert in_body.headers["x-ftreg-variant"] == expected
        headers = {"X-User-ID": key.encode("utf-8").decode("latin-1")}
        in_header = served.use(
            lambda client, headers=headers: client.post(
                "/v1/completions",
                json={**TEXT, "user": "other"},
                headers={k: v.encode("latin-1") for k, v in headers.items()},
            )
        )
        assert in_header.headers["x-ftreg-variant"] == expected
    assert {request.unit for request in served.requests} == {f"kéy-{number}" for number in range(20)}


def test_requests_without_a_key_are_assigned_one_by_one(served: Served) -> None:
    """Without a user each request is its own unit; an API key that the server does not require does not count."""

    async def ask(client):
        return [await client.post("/v1/completions", json=TEXT) for _ in range(40)]

    responses = served.use(ask, Authorization="Bearer sk-anything")
    assert {response.headers["x-ftreg-variant"] for response in responses} == {"alpha:1", "beta:1"}
    assert [request.unit for request in served.requests] == [request.id for request in served.requests]


def test_users_are_assigned_by_api_key_if_keys_are_required(tmp_path: Path) -> None:
    """If the server requires API keys, a client without a user stays on one variant by its key."""

    async def ask(client):
        return [await client.post("/v1/completions", json=TEXT) for _ in range(10)]

    with serving(deployment(), tmp_path, api_keys=("key-one", "key-two")) as served:
        responses = served.use(ask, Authorization="Bearer key-two")
        assert len({response.headers["x-ftreg-variant"] for response in responses}) == 1
        assert {request.unit for request in served.requests} == {"key-two"}


def test_a_pinned_version_bypasses_the_experiment(served: Served) -> None:
    """A version that the client names answers, whoever asks, and is recorded as pinned."""
    user = key_for(served, "beta:1")
    response = served.ask("/v1/completions", {**TEXT, "model": "alpha:1", "user": user})
    assert response.headers["x-ftreg-variant"] == response.json()["model"] == "alpha:1"
    assert [request.route for request in served.requests] == ["pinned"]


def test_no_other_variant_answers_for_one_that_fails(served: Served) -> None:
    """If a variant fails, the request fails: no other variant is asked, and the failure is recorded for the variant."""
    user = key_for(served, "alpha:1")
    ENGINES[digest("a")].fail = RuntimeError("secret path")
    response = served.ask("/v1/chat/completions", {**HELLO, "user": user})
    error = error_of(response, 500, "engine_error")
    assert error["type"] == "server_error"
    assert "secret" not in error["message"]
    assert response.headers["x-ftreg-variant"] == "alpha:1"
    assert not ENGINES[digest("b")].reads
    [request] = served.requests
    assert (request.ref, request.status, request.error, request.finish) == ("alpha:1", 500, "engine_error", None)
    assert served.ask("/v1/chat/completions", {**HELLO, "user": user}).status_code == 200


def test_the_record_has_what_happened(served: Served) -> None:
    """A request is recorded with its variant, unit, latency and tokens."""
    response = served.ask("/v1/chat/completions", {**HELLO, **STREAM, "user": "u"})
    [request] = served.requests
    assert request.id == response.headers["x-request-id"]
    assert (request.route, request.epoch, request.unit, request.status) == ("experiment", 1, "u", 200)
    assert (request.ref, request.digest) == (response.headers["x-ftreg-variant"], response.headers["x-ftreg-digest"])
    assert (request.prompt_tokens, request.completion_tokens, request.finish) == (5, 6, "stop")
    assert request.first_token is not None
    assert 0 < request.first_token <= request.latency < 10


def test_weights_change_while_it_serves(served: Served) -> None:
    """An administrator changes the weights; the next request follows them, and the record has the new epoch."""
    shown = served.ask("/admin/experiment", method="GET", **ADMIN).json()
    assert (shown["experiment"], shown["epoch"], shown["weights"]) == ("trial", 1, {"alpha:1": 1.0, "beta:1": 1.0})
    changed = served.ask("/admin/experiment", {"weights": {"alpha:1": 0}}, "PUT", **ADMIN).json()
    assert (changed["epoch"], changed["shares"]) == (2, {"alpha:1": 0.0, "beta:1": 1.0})
    response = served.ask("/v1/completions", {**TEXT, "user": key_for(served, "beta:1")})
    assert response.headers["x-ftreg-variant"] == "beta:1"
    assert served.requests[-1].epoch == 2


def test_the_experiment_is_for_administrators(served: Served) -> None:
    """Without the administrator's token nothing is shown or changed, and invalid weights change nothing."""
    for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": f"Basic {ADMIN}"}):
        for method in ("GET", "PUT"):
            response = served.ask("/admin/experiment", {"weights": {"alpha:1": 0}}, method, **headers)
            error_of(response, 401, "invalid_api_key")
            assert response.headers["www-authenticate"] == "Bearer"
    error = error_of(served.ask("/admin/experiment", {"weights": {"alfa:1": 1}}, "PUT", **ADMIN), 400)
    assert "Did you mean alpha:1?" in error["message"]
    for weights in ({"alpha:1": -1}, {"alpha:1": 0, "beta:1": 0}, {}, None):
        error_of(served.ask("/admin/experiment", {"weights": weights}, "PUT", **ADMIN), 400)
    assert served.record.allocation.epoch == 1


def test_shadows_answer_without_being_seen(tmp_path: Path) -> None:
    """A shadow gets the prompts of the experiment's requests, and is recorded; no client sees its answer."""
    with serving(deployment(variant("alpha", "a"), shadows=[variant("gamma", "c")]), tmp_path) as served:

        async def run(client):
            answer = await client.post("/v1/chat/completions", json={**HELLO, **STREAM, "user": "u"})
            await asyncio.to_thread(wait_for, lambda: served.rows("shadow"))
            return answer

        answer = served.use(run)
        assert answer.headers["x-ftreg-variant"] == "alpha:1"
        assert "gamma" not in answer.text
        [live], [shadow] = served.rows("experiment"), served.rows("shadow")
        assert (shadow.ref, shadow.digest, shadow.id, shadow.unit) == ("gamma:1", digest("c"), live.id, "u")
        assert (shadow.status, shadow.completion_tokens) == (200, 6)

        async def pinned(client):
            response = await client.post("/v1/completions", json={**TEXT, "model": "gamma:1"})
            await client.post("/v1/completions", json=TEXT)
            await asyncio.to_thread(wait_for, lambda: len(served.rows("shadow")) == 2)
            return response

        assert served.use(pinned).headers["x-ftreg-variant"] == "gamma:1"
        assert [row.id for row in served.rows("shadow")] == [row.id for row in served.rows("experiment")]
        assert [model["id"] for model in served.ask("/v1/models", method="GET").json()["data"]] == [
            "bot", "alpha:1", "gamma:1",
        ]  # fmt: skip


def _keep_busy(served: Served) -> Generation:
    """Have beta generate until the result is closed, so that a client is waiting all the time."""
    ENGINES[digest("b")].gate.clear()
    params = SamplingParams(temperature=0.0)
    busy = Generation(served.pool.batcher("beta:1"), digest("b"), served.pool.tokenizer("beta:1"), params, HANG_SECONDS)
    busy.start([[120] * 10], 10, stream=False)
    return busy


def _with_shadow(**limits: float) -> Deployment:
    """The variants alpha, which gets all requests, and beta, and the shadow gamma."""
    return deployment(variant("alpha", "a"), variant("beta", "b", 0.0), shadows=[variant("gamma", "c")], **limits)


def test_a_shadow_that_is_never_begun_is_dropped(tmp_path: Path) -> None:
    """A shadow that waits until its time is up is counted as dropped, is not recorded, and leaves nothing behind."""

    async def run(client) -> None:
        tasks = asyncio.all_tasks()
        busy = _keep_busy(served)
        assert (await client.post("/v1/completions", json=TEXT)).status_code == 200
        await asyncio.to_thread(wait_for, lambda: gamma.dropped == {digest("c"): 1})
        while asyncio.all_tasks() - tasks:  # the shadow's task ends
            await asyncio.sleep(0)
        assert gamma.loads() == ({}, {})
        busy.close()
        ENGINES[digest("b")].gate.set()
        await asyncio.to_thread(wait_for, served.idle)

    with serving(_with_shadow(timeout=2.0), tmp_path) as served:
        gamma = served.pool.batcher("gamma:1")
        served.use(run)
        assert not ENGINES[digest("c")].reads
        assert [request.route for request in served.requests] == ["experiment"]
        assert gamma.dropped == {digest("c"): 1}


def test_a_shadows_times_count_from_its_beginning(tmp_path: Path) -> None:
    """The time that a shadow waits for clients is not part of its latency."""

    async def run(client) -> float:
        busy = _keep_busy(served)
        assert (await client.post("/v1/completions", json=TEXT)).status_code == 200
        answered = time.monotonic()
        await asyncio.to_thread(wait_for, lambda: time.monotonic() > answered + 0.2)
        released = time.monotonic()
        busy.close()
        ENGINES[digest("b")].gate.set()
        await asyncio.to_thread(wait_for, lambda: served.rows("shadow"))
        return time.monotonic() - released

    with serving(_with_shadow(), tmp_path) as served:
        ran = served.use(run)
        [shadow] = served.rows("shadow")
        assert shadow.first_token is not None
        assert 0 < shadow.first_token <= shadow.latency <= ran


def test_a_shadow_that_fails_or_hangs_is_not_noticed(tmp_path: Path) -> None:
    """While a shadow hangs, clients are answered as usual; the shadow's completions beyond its queue are dropped."""
    with serving(deployment(variant("alpha", "a"), shadows=[variant("gamma", "c")]), tmp_path) as served:
        shadow, batcher = ENGINES[digest("c")], served.pool.batcher("gamma:1")
        shadow.gate.clear()

        async def run(client):
            answers = [await client.post("/v1/completions", json=TEXT) for _ in range(60)]
            await asyncio.to_thread(wait_for, lambda: batcher.dropped.total() == 60 - 32)
            metrics = await client.get("/metrics")
            shadow.fail = RuntimeError("broken")
            shadow.gate.set()
            await asyncio.to_thread(wait_for, lambda: any(row.status == 500 for row in served.rows("shadow")))
            return answers, metrics

        answers, metrics = served.use(run)
        assert all(response.status_code == 200 for response in answers)
        [line] = [
            line
            for line in metrics.text.splitlines()
            if line.startswith("ftreg_shadow_drops_total{") and "gamma" in line
        ]
        assert float(line.split()[-1]) == 60 - 32
        assert all(request.status == 200 for request in served.rows("experiment"))
