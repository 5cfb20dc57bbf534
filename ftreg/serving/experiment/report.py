"""The report of an experiment: estimates with confidence intervals, checks, and a verdict."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from ftreg.core.errors import MissingExtra
from ftreg.serving.deployment import Variant
from ftreg.serving.experiment.history import History, VariantUsage
from ftreg.serving.experiment.statistics import ALPHA, Interval, difference_interval, mean_interval, sample_ratio_p

Decision = Literal["promote", "roll back", "inconclusive"]
PROMOTE: Decision = "promote"
ROLL_BACK: Decision = "roll back"
INCONCLUSIVE: Decision = "inconclusive"
Shares = Mapping[int, Mapping[str, float]]  # by epoch, by ref

MAX_ERROR_INCREASE = 0.01  # how much higher a challenger's error rate may be than the control's
_SLOWDOWN = 2.0  # a p95 latency of this many times the control's is worth a warning,
_MIN_REQUESTS = 100  # if each of the two has answered this many requests
_SPLIT_ALPHA = 0.001  # a smaller p-value of the sample-ratio check says that the split is broken


@dataclass(frozen=True)
class Estimate:
    """An estimate with its confidence interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Arm:
    """One arm of the experiment: a variant with its figures.

    Attributes:
        usage: Its requests, errors, tokens and latencies.
        weight: Its current weight.
        users: Users whose first request it answered. An API key counts as a user if its requests name none, and a
            request with neither counts as a user of its own.
        expected_share: The share of users that the weights assign to it, over all epochs.
        observed_share: The share of users that it got; None without users.
        error_rate: Errors divided by requests; None without requests.
        score: Mean score of the users whose first feedback is about it; None without feedback.
        rated: Number of these users.
    """

    usage: VariantUsage
    weight: float
    users: int
    expected_share: float
    observed_share: float | None
    error_rate: float | None
    score: Estimate | None
    rated: int


@dataclass(frozen=True)
class Verdict:
    """What to do, with which variant, and why."""

    decision: Decision
    ref: str | None
    reason: str


@dataclass(frozen=True)
class ArmComparison:
    """A challenger compared with the control.

    Attributes:
        ref: The challenger.
        difference: Its mean score minus the control's; None until both have been rated.
        errors: The share of its users whose first request failed, minus the control's; None until both have users.
        warnings: Observations that do not decide anything but are worth a look.
        verdict: The verdict on this challenger alone.
    """

    ref: str
    difference: Estimate | None
    errors: Estimate | None
    warnings: tuple[str, ...]
    verdict: Verdict


@dataclass(frozen=True)
class SampleRatio:
    """The check that users were split as the weights say: its always-valid p-value, and whether it failed."""

    p: float
    failed: bool


@dataclass(frozen=True)
class Report:
    """Everything that is known about an experiment at one moment.

    Attributes:
        deployment: The deployment's name.
        experiment: The experiment's name.
        id: The experiment's id.
        created: When it began, in Unix seconds.
        at: When the report was made, in Unix seconds.
        epoch: The current epoch: how many allocations there have been.
        alpha: Probability that the interval of one comparison ever misses the true value.
        control: Reference of the control.
        arms: The variants, the control first.
        apart: Pinned and shadow requests, which are not part of the comparison.
        sample_ratio: The check of the split.
        comparisons: Each challenger compared with the control.
        verdict: The verdict on the experiment.
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
    apart: tuple[VariantUsage, ...]
    sample_ratio: SampleRatio
    comparisons: tuple[ArmComparison, ...]
    verdict: Verdict


def make_report(history: History) -> Report:
    """Make the report of an experiment; raise ``MissingExtra`` if numpy is not installed."""
    _need_numpy()
    deployment = history.deployment
    control, *challengers = deployment.variants
    alpha = ALPHA / max(1, len(challengers))  # Bonferroni: with probability 1 - ALPHA, no comparison is ever wrong
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
        VariantUsage(ref, variant.digest, "experiment", 0, 0, 0, 0, 0),
    )
    scores = [score for scored, score in history.scores if scored == ref]
    users = sum(unit.ref == ref for unit in history.units)
    now = history.allocations[-1]
    expected = [shares[unit.epoch].get(ref, 0.0) for unit in history.units] or [shares[now.epoch][ref]]
    return Arm(
        usage=usage,
        weight=now.weights[ref],
        users=users,
        expected_share=sum(expected) / len(expected),
        observed_share=users / len(history.units) if history.units else None,
        error_rate=usage.errors / usage.requests if usage.requests else None,
        score=_estimate(_mean(scores), mean_interval(scores)) if scores else None,
        rated=len(scores),
    )


def _sample_ratio(history: History, shares: Shares) -> SampleRatio:
    counts: dict[int, Counter[str]] = {}
    for unit in history.units:
        counts.setdefault(unit.epoch, Counter())[unit.ref] += 1
    p = sample_ratio_p((counted, shares[epoch]) for epoch, counted in counts.items())
    return SampleRatio(p, failed=p < _SPLIT_ALPHA)


def _compare(history: History, control: Arm, challenger: Arm, alpha: float) -> ArmComparison:
    pair = (control.usage.ref, challenger.usage.ref)
    difference = _difference(history.scores, pair, alpha)
    errors = _difference([(unit.ref, float(unit.failed)) for unit in history.units], pair, alpha)
    return ArmComparison(
        ref=pair[1],
        difference=difference,
        errors=errors,
        warnings=tuple(_warnings(control.usage, challenger.usage)),
        verdict=_verdict_of(pair[1], difference, errors),
    )


def _difference(observations: Iterable[tuple[str, float]], pair: tuple[str, str], alpha: float) -> Estimate | None:
    """Return the challenger's mean minus the control's, of ``pair``; None if either has no observations."""
    both = [(ref == pair[1], value) for ref, value in observations if ref in pair]
    means = [_mean([value for is_challenger, value in both if is_challenger == arm]) for arm in (False, True)]
    if means[0] is None or means[1] is None:
        return None
    return _estimate(means[1] - means[0], difference_interval(both, alpha))


def _warnings(control: VariantUsage, challenger: VariantUsage) -> Iterable[str]:
    """Yield observations that do not decide anything but are worth a look."""
    if control.latency_p95 and challenger.latency_p95 and min(control.requests, challenger.requests) >= _MIN_REQUESTS:
        times = challenger.latency_p95 / control.latency_p95
        if times > _SLOWDOWN:
            yield f"{challenger.ref} is slow: its p95 latency is {times:.1f} times that of {control.ref}"


def _verdict_of(ref: str, difference: Estimate | None, errors: Estimate | None) -> Verdict:
    """Return the verdict on one challenger."""
    if errors is not None and errors.low > MAX_ERROR_INCREASE:
        return Verdict(ROLL_BACK, ref, f"{ref} fails more often than the control, by {_points(errors)}")
    if difference is None:
        return Verdict(INCONCLUSIVE, None, f"{ref} cannot be compared before users have rated both it and the control")
    if difference.high < 0:
        return Verdict(ROLL_BACK, ref, f"{ref} scores lower than the control: {_signed(difference)}")
    if difference.low > 0:
        return Verdict(PROMOTE, ref, f"{ref} scores higher than the control: {_signed(difference)}")
    return Verdict(INCONCLUSIVE, None, f"{ref} may score higher or lower than the control: {_signed(difference)}")


def _verdict(ratio: SampleRatio, comparisons: Sequence[ArmComparison]) -> Verdict:
    """Return the verdict on the experiment: promote the clearest winner; roll back if all challengers have lost."""
    if not comparisons:
        return Verdict(INCONCLUSIVE, None, "there is only one variant, so there is nothing to compare")
    if ratio.failed:
        reason = (
            f"users are not split as the weights say (p = {ratio.p:.1g}), so no figure in this report can be trusted"
        )
        return Verdict(INCONCLUSIVE, None, f"{reason}; find out which requests are missing")
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
