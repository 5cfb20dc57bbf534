"""The recorder: writes what happened to a request into the experiment's record and the metrics."""

from __future__ import annotations

from dataclasses import dataclass

from ftreg.serving.experiment.entry import RequestEntry
from ftreg.serving.experiment.record import ExperimentRecord
from ftreg.serving.http.metrics import Metrics


@dataclass(frozen=True)
class Recorder:
    """Records requests in the experiment's record and in the metrics.

    Attributes:
        record: The experiment's record.
        metrics: The server's metrics.
    """

    record: ExperimentRecord
    metrics: Metrics

    def add(self, entry: RequestEntry) -> None:
        """Record one request that a model has answered or failed to answer."""
        self.record.add(entry)
        self.metrics.count(entry)
