"""Comparisons: gathers what is known of several versions that were measured on the same examples, and tests it."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ftreg.context import Context
from ftreg.core.specs import MetricSpec
from ftreg.core.types import AnsweredPrompt, Version
from ftreg.evaluation.disagreement import largest_disagreements
from ftreg.evaluation.report import Ancestor, Candidate, Difference, Estimate, Figure, Report, Training, Verdict
from ftreg.evaluation.significance import (
    CONFIDENCE,
    RESAMPLES,
    Observations,
    holm,
    interval,
    paired,
    randomization_test,
    resample,
)
from ftreg.pipeline.evaluations import Evaluation
from ftreg.pipeline.observations import LOSS, TOKEN_ACCURACY, observe
from ftreg.registry import EvidenceRecord, Registry

_SIGNIFICANT = 0.05
_PERPLEXITY = "perplexity"
_POINTS = 200  # of a curve

Observed = Mapping[str, Mapping[str, Observations]]
"""By figure and version."""


def build_report(
    context: Context, results: Mapping[str, Evaluation], *, dataset: str, digest: str, split: str, answers: int
) -> Report:
    """Compute everything that a report on ``results`` says.

    Args:
        context: Where the versions are.
        results: The evaluation of each version on the same examples, by reference; the first is the baseline.
        dataset: What the examples are from, as it was named.
        digest: Its digest.
        split: Which part of it.
        answers: How many examples to show side by side.
    """
    first = next(iter(results.values()))
    context.progress.say("computing confidence intervals and tests")
    figures = _figures(context, results)
    rows: Iterable[tuple[AnsweredPrompt, ...]] = zip(*(result.answers for result in results.values()), strict=True)
    return Report(
        dataset=dataset,
        digest=digest,
        split=split,
        examples=first.examples,
        baseline=next(iter(results)),
        confidence=CONFIDENCE,
        resamples=RESAMPLES,
        tests=sum(len(figure.differences) for figure in figures),
        candidates=[_candidate(context.registry, ref, result) for ref, result in results.items()],
        figures=figures,
        failed_metrics=[
            (ref, name, reason) for ref, result in results.items() for name, reason in result.failed_metrics.items()
        ],
        disagreements=largest_disagreements(rows, answers),
        answered=len(first.answers),
        lineage=_lineage(context.registry, results),
    )


def _figures(context: Context, results: Mapping[str, Evaluation]) -> list[Figure]:
    """Return all figures, with intervals and tests where the score of each example is known."""
    baseline = next(iter(results))
    values = {ref: result.figures for ref, result in results.items()}
    better = {spec.name: spec.higher_is_better for spec in context.host.specs(MetricSpec)}
    better |= {LOSS: False, _PERPLEXITY: False, TOKEN_ACCURACY: True}
    observed = _observed(results)
    intervals = _intervals(observed)
    differences = _differences(observed, baseline, better)
    figures: list[Figure] = []
    for name in dict.fromkeys(name for found in values.values() for name in found):
        estimates = {
            ref: Estimate(found[name], *intervals.get((name, ref), ()))
            for ref, found in values.items()
            if name in found
        }
        if name == _PERPLEXITY:
            estimates = {ref: _exponential(figures[0].estimates[ref], one.value) for ref, one in estimates.items()}
        figures.append(Figure(name, better.get(name.partition(".")[0]), estimates, differences.get(name, {})))
    return figures


def _exponential(loss: Estimate, perplexity: float) -> Estimate:
    """Return the perplexity with the interval that belongs to the loss, of which it is the exponential."""
    ends = (None if end is None else math.exp(min(end, 700.0)) for end in (loss.low, loss.high))
    return Estimate(perplexity, *ends)


def _observed(results: Mapping[str, Evaluation]) -> Observed:
    """Return what is known of each example, by figure and version."""
    found: dict[str, dict[str, Observations]] = {}
    for ref, result in results.items():
        for figure, observations in observe(result).items():
            found.setdefault(figure, {})[ref] = observations
    return found


def _intervals(observed: Observed) -> dict[tuple[str, str], tuple[float, float]]:
    """Return the interval of each figure of each version."""
    return _resampled_intervals({(name, ref): (one,) for name, of in observed.items() for ref, one in of.items()})


def _resampled_intervals(
    wanted: Mapping[tuple[str, str], tuple[Observations, ...]],
) -> dict[tuple[str, str], tuple[float, float]]:
    """Return the interval of each figure, or of the second minus the first of two.

    Figures of the same number of examples share their samples.
    """
    found = {}
    for length in {len(ones[0].sums) for ones in wanted.values()}:
        chosen = {key: ones for key, ones in wanted.items() if len(ones[0].sums) == length}
        samples = iter(resample([one for ones in chosen.values() for one in ones]))
        for key, ones in chosen.items():
            sampled = next(samples)
            if len(ones) == 2:
                sampled = next(samples) - sampled
            if (ends := interval(sampled)) is not None:
                found[key] = (ends.low, ends.high)
    return found


def _differences(
    observed: Observed, baseline: str, better: Mapping[str, bool | None]
) -> dict[str, dict[str, Difference]]:
    """Test each figure of each version against the baseline's; the p-values are corrected for all tests together."""
    pairs = {
        (name, ref): paired(of[baseline], one)
        for name, of in observed.items()
        for ref, one in of.items()
        if ref != baseline and baseline in of
    }
    pairs = {key: pair for key, pair in pairs.items() if pair[0].weights.any()}
    intervals = _resampled_intervals(pairs)
    p_values = [randomization_test(*pair) for pair in pairs.values()]
    found: dict[str, dict[str, Difference]] = {}
    for (key, (ours, theirs)), p_value, corrected in zip(pairs.items(), p_values, holm(p_values), strict=True):
        name, ref = key
        gain = theirs.value - ours.value
        low, high = intervals.get(key, (None, None))
        verdict = _verdict(gain, better.get(name.partition(".")[0])) if corrected < _SIGNIFICANT else "not shown"
        found.setdefault(name, {})[ref] = Difference(gain, low, high, p_value, corrected, verdict)
    return found


def _verdict(gain: float, higher_is_better: bool | None) -> Verdict:
    """Say what a difference that was shown means."""
    if higher_is_better is None:
        return "differs"
    return "better" if (gain > 0) == higher_is_better else "worse"


def _candidate(registry: Registry, ref: str, result: Evaluation) -> Candidate:
    """Return what is on record of a version."""
    version = registry.get(ref)
    certificates = [record.body for record in registry.evidence(version.digest) if record.type == "certificate"]
    return Candidate(
        ref=ref,
        version=version.ref,
        digest=version.digest,
        kind=version.kind,
        made_by=_made_by(version),
        aliases=version.aliases,
        size=version.size,
        peak_rss_bytes=result.costs.get("peak_rss_bytes"),
        answer_tokens_per_second=result.costs.get("answer_tokens_per_second"),
        evaluated=result.at,
        certificate_kl=certificates[-1]["parity"]["kl"] if certificates else None,
        certificate_failures=certificates[-1]["failures"] if certificates else None,
        training=_training(registry, version),
    )


def _made_by(version: Version) -> str:
    producer = version.manifest.producer
    return f"{producer.type} {producer.name}"


def _training(registry: Registry, version: Version) -> Training | None:
    """Return the curves of the training that a version comes from through its first inputs; None if there is none."""
    while True:
        for record in reversed(registry.evidence(version.digest)):
            if (curves := _curves(record)) is not None:
                steps, evaluations = curves
                return Training(version.ref, _thinned(steps), _thinned(evaluations))
        inputs = [parent for parent in version.manifest.parents if parent.role not in ("base", "dataset")]
        if version.manifest.producer.type != "step" or not inputs:
            return None
        version = registry.get(inputs[0].digest)


def _curves(record: EvidenceRecord) -> tuple[list[Any], list[Any]] | None:
    """Return the steps and the evaluations of a training's record; None if it is not one."""
    file = record.files.get("metrics.json") if record.type == "run" else None
    if file is None:
        return None
    metrics = json.loads(file.read_text(encoding="utf-8"))
    return metrics["steps"], metrics["evaluations"]


def _thinned(curve: Sequence[Mapping[str, Any]]) -> list[tuple[int, float]]:
    """Return pairs of step and loss, of a long curve the means over as many equal parts as ``_POINTS``."""
    size = max(1, math.ceil(len(curve) / _POINTS))
    parts = [curve[start : start + size] for start in range(0, len(curve), size)]
    return [(part[-1]["step"], math.fsum(entry["loss"] for entry in part) / len(part)) for part in parts]


def _lineage(registry: Registry, refs: Iterable[str]) -> list[Ancestor]:
    """Return the versions and all their ancestors, oldest first."""
    names: dict[str, str] = {}
    found: dict[str, Ancestor] = {}
    created: dict[str, str] = {}
    for ref in refs:
        graph = registry.lineage(ref)
        names |= {digest: version.ref for digest, version in graph.nodes.items()}
        waiting = [graph.root]
        while waiting:
            digest = waiting.pop()
            version = graph.nodes.get(digest)
            if version is None or digest in found:
                continue
            edges = graph.parents(digest)
            parents = [(edge.role, names.get(edge.parent, edge.parent)) for edge in edges]
            found[digest] = Ancestor(version.ref, version.kind, _made_by(version), parents)
            created[digest] = version.created
            waiting += [edge.parent for edge in edges]
    return [found[digest] for digest in sorted(found, key=lambda digest: (created[digest], found[digest].ref))]
