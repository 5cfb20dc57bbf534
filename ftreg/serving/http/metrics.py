"""Prometheus metrics, by variant and digest."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from ftreg.serving.decoding.pool import ModelPool
from ftreg.serving.deployment import Deployment
from ftreg.serving.experiment.entry import RequestEntry
from ftreg.serving.experiment.record import ExperimentRecord

_LABELS = ("variant", "digest")
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 50, 100)


class Metrics:
    """The metrics of one server.

    Args:
        deployment: The deployment.
        pool: Its models, for the length of queues and batches.
        record: The experiment's record, for the number of requests that could not be recorded.
    """

    def __init__(self, deployment: Deployment, pool: ModelPool, record: ExperimentRecord) -> None:
        # Not the library's global registry, which other code in this process may use.
        self._registry = CollectorRegistry()
        labels = [*_LABELS, "route"]
        self._requests = self._counter("requests", "Requests, by status.", [*labels, "status"])
        self._errors = self._counter("errors", "Requests that failed, by the error's code.", [*labels, "code"])
        self._prompt = self._counter("prompt_tokens", "Prompt tokens.", labels)
        self._completion = self._counter("completion_tokens", "Completion tokens.", labels)
        self._latency = self._histogram("request_seconds", "Seconds until the answer was complete.", labels)
        self._first = self._histogram("first_token_seconds", "Seconds until the first token.", labels)
        self._refused = self._counter("refused", "Requests refused before a variant was chosen, by code.", ["code"])
        self._registry.register(_LiveState(deployment, pool, record))

    def count(self, entry: RequestEntry) -> None:
        """Count a request that a model has answered or failed to answer."""
        labels = (entry.ref, entry.digest, entry.route)
        self._requests.labels(*labels, entry.status).inc()
        if entry.error is not None:
            self._errors.labels(*labels, entry.error).inc()
        self._prompt.labels(*labels).inc(entry.prompt_tokens)
        self._completion.labels(*labels).inc(entry.completion_tokens)
        self._latency.labels(*labels).observe(entry.latency)
        if entry.first_token is not None:
            self._first.labels(*labels).observe(entry.first_token)

    def count_refused(self, code: str) -> None:
        """Count a request that was refused before a variant was chosen, by its error's code."""
        self._refused.labels(code).inc()

    def text(self) -> bytes:
        """Return all metrics in Prometheus' text format."""
        return generate_latest(self._registry)

    def _counter(self, name: str, what: str, labels: list[str]) -> Counter:
        return Counter(f"ftreg_{name}", what, labels, registry=self._registry)

    def _histogram(self, name: str, what: str, labels: list[str]) -> Histogram:
        return Histogram(f"ftreg_{name}", what, labels, registry=self._registry, buckets=_SECONDS)


class _LiveState(Collector):
    """Gauges that are read when Prometheus asks: queues, rows, readiness, losses."""

    def __init__(self, deployment: Deployment, pool: ModelPool, record: ExperimentRecord) -> None:
        self._digests = {variant.ref: variant.digest for variant in deployment.all_variants()}
        self._pool = pool
        self._record = record

    def collect(self) -> Iterator[Metric]:
        """Yield the current values."""
        waiting = GaugeMetricFamily("ftreg_waiting", "Completions in the queue.", labels=_LABELS)
        rows = GaugeMetricFamily("ftreg_rows", "Completions in the batch.", labels=_LABELS)
        drops = CounterMetricFamily("ftreg_shadow_drops", "Completions of shadows that were dropped.", labels=_LABELS)
        if self._pool.ready:
            for ref, digest in self._digests.items():
                batcher = self._pool.batcher(ref)
                queued, running = batcher.loads()
                waiting.add_metric((ref, digest), queued[digest])
                rows.add_metric((ref, digest), running[digest])
                drops.add_metric((ref, digest), batcher.dropped[digest])
        yield from (waiting, rows, drops)
        yield GaugeMetricFamily("ftreg_ready", "1 once all models are loaded.", value=float(self._pool.ready))
        yield CounterMetricFamily("ftreg_lost_records", "Requests that could not be recorded.", value=self._record.lost)
