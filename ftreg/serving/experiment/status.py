"""The status of an experiment: who gets what, and how many requests there were."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from ftreg.serving.experiment.history import ExperimentSummary, History


@dataclass(frozen=True)
class VariantStatus:
    """A variant now: its weight, its share of the users, and how many users and requests it has had."""

    ref: str
    weight: float
    share: float
    users: int
    requests: int


@dataclass(frozen=True)
class Epoch:
    """A stretch of the experiment with the same weights: its number, when it began in Unix seconds, the weights."""

    epoch: int
    at: float
    weights: Mapping[str, float]


@dataclass(frozen=True)
class Status:
    """An experiment at this moment.

    Attributes:
        deployment: The deployment's name.
        experiment: The experiment's name.
        id: The experiment's id.
        created: When it began, in Unix seconds.
        epochs: The weights over time, oldest first.
        requests: Requests by route: ``experiment``, ``pinned`` or ``shadow``.
        variants: The variants, the control first.
        shadows: References of the shadow versions.
        others: The other experiments of the same record.
    """

    deployment: str
    experiment: str
    id: str
    created: float
    epochs: tuple[Epoch, ...]
    requests: Mapping[str, int]
    variants: tuple[VariantStatus, ...]
    shadows: tuple[str, ...]
    others: tuple[ExperimentSummary, ...]


def status_of(history: History) -> Status:
    """Summarize ``history``."""
    deployment, current = history.deployment, history.allocations[-1]
    users = Counter(unit.ref for unit in history.units)
    requests = {usage.ref: usage.requests for usage in history.usage if usage.route == "experiment"}
    routes: Counter[str] = Counter()
    for usage in history.usage:
        routes[usage.route] += usage.requests
    return Status(
        deployment=deployment.name,
        experiment=deployment.experiment,
        id=history.experiment,
        created=history.created,
        epochs=tuple(
            Epoch(allocation.epoch, at, dict(allocation.weights))
            for allocation, at in zip(history.allocations, history.changes, strict=True)
        ),
        requests=dict(routes),
        variants=tuple(
            VariantStatus(ref, weight, current.shares[ref], users[ref], requests.get(ref, 0))
            for ref, weight in current.weights.items()
        ),
        shadows=tuple(variant.ref for variant in deployment.shadows),
        others=history.others,
    )
