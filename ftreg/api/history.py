"""History: does again what made a version, and finds the step at which a model lost its quality."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from ftreg.api.opening import opened
from ftreg.core.types import Progress
from ftreg.pipeline.bisect import MARGIN, Bisection, Link, bisect_chain
from ftreg.pipeline.replay import Change, FileComparison, Replay, replay_version
from ftreg.registry import Registry

__all__ = ["Bisection", "Change", "FileComparison", "Link", "Replay", "bisect", "replay"]


def replay(
    ref: str, *, kl: float | None = None, registry: Registry | None = None, progress: Progress | None = None
) -> Replay:
    """Do again what made the version ``ref``, compare the result with it, and keep the grade as evidence.

    The work is done from the recorded inputs, configuration and seed, with the packages that are installed now. Nothing
    is published.

    Args:
        ref: A version that was trained, created or made by a step.
        kl: Largest mean KL divergence from the version, in nats per token, of a result that is within tolerance though
            its files differ; by default the tolerance of the step, or 0.01 with 99 % top-1 agreement and a loss that is
            0.01 higher at most.
        registry: Where to read the version and to add the evidence; by default the default registry.
        progress: Where to report progress.

    Raises:
        InputError: The version was imported, or its plugin is not installed.
        CorruptRegistry: An input of the work is damaged.
    """
    with opened(registry, progress) as context:
        return replay_version(context, ref, kl=kl)


def bisect(
    ref: str,
    data: str | Path | None = None,
    *,
    metric: str = "loss",
    settings: Mapping[str, Any] = MappingProxyType({}),
    split: str | None = None,
    limit: int | None = None,
    margin: float = MARGIN,
    registry: Registry | None = None,
    progress: Progress | None = None,
) -> Bisection:
    """Measure ``ref`` and what it was made from on the same examples, and name the step that lost the quality.

    The chain leads from ``ref`` to its base or source, and so on. A version lost quality if its figure is worse than
    that of the version before it by at least ``margin``, and the confidence interval of the difference, by a paired
    bootstrap over the examples, excludes zero; all intervals hold together with 95 % confidence. Evaluations on record
    are not made again. What is found is kept with ``ref`` as evidence.

    Args:
        ref: The version that is worse than expected.
        data: A file or a registered dataset; by default the dataset in the lineage of ``ref``.
        metric: ``loss``, ``token_accuracy``, or a metric, as ``metric.figure`` if it has several figures. The
            figure must be the mean of a score for each answer.
        settings: Settings of the metric by dotted key.
        split: Which part of the dataset; by default ``test``, else ``validation``.
        limit: Use only the first so many examples.
        margin: The smallest loss of quality that counts: nats per token of a loss, else points of the score.
        registry: Where to read the versions and to add the evidence; by default the default registry.
        progress: Where to report progress.

    Raises:
        InputError: A version, the data or the metric does not exist or cannot be used, or nothing that ``ref`` was made
            from can be measured.
    """
    with opened(registry, progress) as context:
        path = None if data is None else str(data)
        return bisect_chain(
            context, ref, metric=metric, settings=settings, data=path, split=split, limit=limit, margin=margin
        )
