"""The report of an experiment: its figures, what may be concluded from them, and what to do."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from ftreg.core.errors import MissingExtra
from ftreg.serving.deployment import Variant
from ftreg.serving.experiment.history import History, Usage
from ftreg.serving.experiment.statistics import ALPHA, Interval, difference_interval, mean_interval, sample_ratio_p

Decision = Literal["promote", "roll back", "inconclusive"]
PROMOTE: Decision = "promote"
ROLL_BACK: Decision = "roll back"
INCONCLUSIVE: Decision = "inconclusive"
Shares = Mapping[int, Mapping[str, float]]  # by epoch, by ref

MOST_ERRORS = 0.01  # by how much more often than the control a challenger may fail
_SLOW = 2.0  # a p95 latency of so many times the control's is worth a warning,
_ENOUGH = 100  # where each has answered so many requests
_ALARM = 0.001  # a smaller p-value of the sample-ratio check says that the split is broken


@dataclass(frozen=True)
class Estimate:
    """A figure, and between what the truth is."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Arm:
    """A variant's figures in the experiment; a challenger's have what sets it apart from the control.

    Attributes:
        usage: Its requests, errors, tokens and latencies.
        weight: Its current weight.
        units: Distinct units that it was the first to answer.
        expected_share: The share of the units that the weights promised, over all epochs.
        observed_share: The share that it got; None without units.
        error_rate: Errors by requests; None without requests.
        score: Mean score of the units whose first feedback is about it; None without feedback.
        rated: How many units these are.
    """

    usage: Usage
    weight: float
    units: int
    expected_share: float
    observed_share: float | None
    error_rate: float | None
    score: Estimate | None
    rated: int


@dataclass(frozen=True)
class Verdict:
    """What to do, about which variant, and why."""

    decision: Decision
    ref: str | None
    reason: str


@dataclass(frozen=True)
class Comparison:
    """A challenger beside the control.

    Attributes:
        ref: The challenger.
        difference: Its mean score minus the control's; None until both have been rated.
        errors: The share of its units whose first request failed, minus the control's; None until both have units.
        warnings: What to look at, in words.
        verdict: What follows from this challenger's figures alone.
    """

    ref: str
    difference: Estimate | None
    errors: Estimate | None
    warnings: tuple[str, ...]
    verdict: Verdict


@dataclass(frozen=True)
class SampleRatio:
    """Whether units were dealt as the weights promised: the always-valid p-value, and whether that is alarming."""

    p: float
    failed: bool


@dataclass(frozen=True)
class Report:
    """All that is known of an experiment at a moment.

    Attributes:
        deployment: The deployment's name.
        experiment: The experiment's name.
        id: The experiment's id.
        created: When it began, in Unix seconds.
        at: The moment, likewise.
        epoch: How many allocations there have been.
        alpha: The probability that the intervals of one comparison are ever wrong.
        control: Ref of the control.
        arms: The variants, the control first.
        apart: Pinned and shadow requests, which take no part in the comparison.
        sample_ratio: The check of the split.
        comparisons: The challengers beside the control.
        verdict: What to do.
    """

    deployment: str
    experiment: str
    id: str
    created: float
    at: float
    epoch: int
    alpha: float
    control: str
    arms: tuple[Arm, ...]
    apart: tuple[Usage, ...]
    sample_ratio: SampleRatio
    comparisons: tuple[Comparison, ...]
    verdict: Verdict


def make_report(history: History) -> Report:
    """Draw the conclusions from an experiment's record; raise ``MissingExtra`` where numpy is not installed."""
    _need_numpy()
    deployment = history.deployment
    control, *challengers = deployment.variants
    alpha = ALPHA / max(1, len(challengers))  # all comparisons together are wrong with that probability
    shares = {allocation.epoch: allocation.shares for allocation in history.allocations}
    arms = {variant.ref: _arm(history, shares, variant) for variant in deployment.variants}
    ratio = _sample_ratio(history, shares)
    comparisons = tuple(_compare(history, arms[control.ref], arms[challenger.ref], alpha) for challenger in challengers)
    return Report(
        deployment=deployment.name,
        experiment=deployment.experiment,
        id=history.experiment,
        created=history.created,
        at=time.time(),
        epoch=history.allocations[-1].epoch,
        alpha=alpha,
        control=control.ref,
        arms=tuple(arms.values()),
        apart=tuple(usage for usage in history.usage if usage.route != "experiment"),
        sample_ratio=ratio,
        comparisons=comparisons,
        verdict=_verdict(ratio, comparisons),
    )


def _need_numpy() -> None:
    try:
        import numpy  # noqa: F401
    except ImportError:
        raise MissingExtra("the report of an experiment", "numpy", "ftreg[serve]") from None


def _arm(history: History, shares: Shares, variant: Variant) -> Arm:
    ref = variant.ref
    usage = next(
        (usage for usage in history.usage if usage.ref == ref and usage.route == "experiment"),
        Usage(ref, variant.digest, "experiment", 0, 0, 0, 0, 0),
    )
    scores = [score for scored, score in history.scores if scored == ref]
    units = sum(unit.ref == ref for unit in history.units)
    now = history.allocations[-1]
    expected = [shares[unit.epoch].get(ref, 0.0) for unit in history.units] or [shares[now.epoch][ref]]
    return Arm(
        usage=usage,
        weight=now.weights[ref],
        units=units,
        expected_share=sum(expected) / len(expected),
        observed_share=units / len(history.units) if history.units else None,
        error_rate=usage.errors / usage.requests if usage.requests else None,
        score=_estimate(_mean(scores), mean_interval(scores)) if scores else None,
        rated=len(scores),
    )


def _sample_ratio(history: History, shares: Shares) -> SampleRatio:
    counts: dict[int, Counter[str]] = {}
    for unit in history.units:
        counts.setdefault(unit.epoch, Counter())[unit.ref] += 1
    p = sample_ratio_p((counted, shares[epoch]) for epoch, counted in counts.items())
    return SampleRatio(p, failed=p < _ALARM)


def _compare(history: History, control: Arm, challenger: Arm, alpha: float) -> Comparison:
    pair = (control.usage.ref, challenger.usage.ref)
    difference = _difference(history.scores, pair, alpha)
    errors = _difference([(unit.ref, float(unit.failed)) for unit in history.units], pair, alpha)
    return Comparison(
        ref=pair[1],
        difference=difference,
        errors=errors,
        warnings=tuple(_warnings(control.usage, challenger.usage)),
        verdict=_verdict_of(pair[1], difference, errors),
    )


def _difference(observations: Iterable[tuple[str, float]], pair: tuple[str, str], alpha: float) -> Estimate | None:
    """The challenger's mean minus the control's; None where one of the two (control, challenger) has none."""
    both = [(ref == pair[1], value) for ref, value in observations if ref in pair]
    means = [_mean([value for is_challenger, value in both if is_challenger == arm]) for arm in (False, True)]
    if means[0] is None or means[1] is None:
        return None
    return _estimate(means[1] - means[0], difference_interval(both, alpha))


def _warnings(control: Usage, challenger: Usage) -> Iterable[str]:
    """What does not decide, but is worth a look."""
    if control.latency_p95 and challenger.latency_p95 and min(control.requests, challenger.requests) >= _ENOUGH:
        times = challenger.latency_p95 / control.latency_p95
        if times > _SLOW:
            yield f"{challenger.ref} is slow: its p95 latency is {times:.1f} times that of {control.ref}"


def _verdict_of(ref: str, difference: Estimate | None, errors: Estimate | None) -> Verdict:
    """What a challenger's own figures say."""
    if errors is not None and errors.low > MOST_ERRORS:
        return Verdict(ROLL_BACK, ref, f"{ref} fails more often than the control, by {_points(errors)}")
    if difference is None:
        return Verdict(INCONCLUSIVE, None, f"{ref} cannot be compared before users have rated both it and the control")
    if difference.high < 0:
        return Verdict(ROLL_BACK, ref, f"{ref} scores lower than the control: {_signed(difference)}")
    if difference.low > 0:
        return Verdict(PROMOTE, ref, f"{ref} scores higher than the control: {_signed(difference)}")
    return Verdict(INCONCLUSIVE, None, f"{ref} may score higher or lower than the control: {_signed(difference)}")


def _verdict(ratio: SampleRatio, comparisons: Sequence[Comparison]) -> Verdict:
    """What the challengers' verdicts and the split come to: promote the surest winner; roll back if all have lost."""
    if not comparisons:
        return Verdict(INCONCLUSIVE, None, "there is one variant, and nothing to compare it with")
    if ratio.failed:
        reason = f"the split is not what the weights promise (p = {ratio.p:.1g}), so that no figure here can be trusted"
        return Verdict(INCONCLUSIVE, None, f"{reason}; find out whose requests are missing")
    order = (PROMOTE, INCONCLUSIVE, ROLL_BACK)
    best = min(
        comparisons,
        key=lambda one: (order.index(one.verdict.decision), -one.difference.low if one.difference else 1.0),
    )
    return best.verdict


def _estimate(value: float | None, interval: Interval) -> Estimate:
    assert value is not None
    return Estimate(value, interval.low, interval.high)


def _mean(values: list[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _signed(estimate: Estimate) -> str:
    return f"{estimate.value:+.3f} ({estimate.low:+.3f} to {estimate.high:+.3f})"


def _points(estimate: Estimate) -> str:
    return f"{estimate.value * 100:.1f} points ({estimate.low * 100:.1f} to {estimate.high * 100:.1f})"
