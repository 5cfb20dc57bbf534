"""Metrics in Prometheus' form, by variant and digest."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from ftreg.serving.decoding.fleet import Fleet
from ftreg.serving.deployment import Deployment
from ftreg.serving.experiment.record import Record, Request

_LABELS = ("variant", "digest")
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 50, 100)


class Metrics:
    """The metrics of one server.

    Args:
        deployment: What is served.
        fleet: Whose queues and rows are shown.
        record: Whose losses are shown.
    """

    def __init__(self, deployment: Deployment, fleet: Fleet, record: Record) -> None:
        # Of its own, since others in this process may keep theirs in the library's.
        self._registry = CollectorRegistry()
        labels = [*_LABELS, "route"]
        self._requests = self._counter("requests", "Requests, by status.", [*labels, "status"])
        self._errors = self._counter("errors", "Requests that failed, by the error's code.", [*labels, "code"])
        self._prompt = self._counter("prompt_tokens", "Tokens read.", labels)
        self._completion = self._counter("completion_tokens", "Tokens written.", labels)
        self._latency = self._histogram("request_seconds", "Until the answer was complete.", labels)
        self._first = self._histogram("first_token_seconds", "Until the first token.", labels)
        self._refused = self._counter("refused", "Requests refused before a variant was chosen, by code.", ["code"])
        self._registry.register(_Current(deployment, fleet, record))

    def count(self, request: Request) -> None:
        """Count a request through a model."""
        labels = (request.ref, request.digest, request.route)
        self._requests.labels(*labels, request.status).inc()
        if request.error is not None:
            self._errors.labels(*labels, request.error).inc()
        self._prompt.labels(*labels).inc(request.prompt_tokens)
        self._completion.labels(*labels).inc(request.completion_tokens)
        self._latency.labels(*labels).observe(request.latency)
        if request.first_token is not None:
            self._first.labels(*labels).observe(request.first_token)

    def refuse(self, code: str) -> None:
        """Count a request that did not come as far as a model."""
        self._refused.labels(code).inc()

    def text(self) -> bytes:
        """All metrics in Prometheus' text format."""
        return generate_latest(self._registry)

    def _counter(self, name: str, what: str, labels: list[str]) -> Counter:
        return Counter(f"ftreg_{name}", what, labels, registry=self._registry)

    def _histogram(self, name: str, what: str, labels: list[str]) -> Histogram:
        return Histogram(f"ftreg_{name}", what, labels, registry=self._registry, buckets=_SECONDS)


class _Current(Collector):
    """What is read off when it is asked for."""

    def __init__(self, deployment: Deployment, fleet: Fleet, record: Record) -> None:
        self._digests = {variant.ref: variant.digest for variant in deployment.all_variants()}
        self._fleet = fleet
        self._record = record

    def collect(self) -> Iterator[Metric]:
        """Yield the current figures."""
        waiting = GaugeMetricFamily("ftreg_waiting", "Answers that wait for a place.", labels=_LABELS)
        rows = GaugeMetricFamily("ftreg_rows", "Answers that are being written.", labels=_LABELS)
        drops = CounterMetricFamily("ftreg_shadow_drops", "Shadows' answers without a place in time.", labels=_LABELS)
        if self._fleet.ready:
            for ref, digest in self._digests.items():
                batcher = self._fleet.batcher(ref)
                now_waiting, now_rows = batcher.loads()
                waiting.add_metric((ref, digest), now_waiting[digest])
                rows.add_metric((ref, digest), now_rows[digest])
                drops.add_metric((ref, digest), batcher.dropped[digest])
        yield from (waiting, rows, drops)
        yield GaugeMetricFamily("ftreg_ready", "1 once all models are loaded.", value=float(self._fleet.ready))
        yield CounterMetricFamily("ftreg_lost_records", "Requests that could not be recorded.", value=self._record.lost)
