"""Anytime-valid statistics: confidence intervals and p-values that hold however often one looks.

Fixed-sample tests are invalid for somebody who looks at the figures every day and stops when they please. These methods
stay valid: the probability that an interval *ever* misses the true value is at most ``alpha``.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

ALPHA = 0.05
_CAUTION = 0.5  # the largest share of the wealth that a bet may risk: c in the paper
_HEAD_START = 30  # bets start as small as after this many observations: wider for a few observations, tighter for many
_PRECISION = 1e-6
# How strongly the prior of the sample-ratio check expects the promised shares, in pseudo-counts of units.
_CONCENTRATION = 100.0


@dataclass(frozen=True)
class Interval:
    """A confidence interval: it contains the true value with probability ``1 - alpha``."""

    low: float
    high: float


def mean_interval(values: Sequence[float], alpha: float = ALPHA) -> Interval:
    """Return the current interval of the confidence sequence for the mean of observations from 0 to 1.

    The hedged-capital confidence sequence of Waudby-Smith and Ramdas, "Estimating means of bounded random variables by
    betting" (JRSS B, 2023), Theorem 3, with their predictable plug-in bets. It contains the means against which a
    cautious gambler could not have multiplied the wealth by ``2 / alpha``. It is tighter than the empirical-Bernstein
    intervals of their Theorem 2, especially for rates near 0. Intervals are not intersected over time, so that the
    interval of a drifting mean follows it instead of becoming empty.

    Args:
        values: Observations in order of arrival; each has the same mean, given those before it.
        alpha: Probability that the mean is ever outside, for any number of observations.
    """
    import numpy as np

    observed = np.asarray(values, dtype=np.float64)
    return Interval(_lower_bound(observed, alpha / 2), 1.0 - _lower_bound(1.0 - observed, alpha / 2))


def difference_interval(observations: Iterable[tuple[bool, float]], alpha: float = ALPHA) -> Interval:
    """Return the current interval for the challenger's mean minus the control's; see ``mean_interval``.

    Args:
        observations: ``(is_challenger, value)`` in order of arrival, values from 0 to 1. Which arm comes next must not
            depend on earlier values, which holds if users are assigned by hash.
        alpha: Probability that the difference is ever outside.
    """
    matched = mean_interval([(difference + 1) / 2 for difference in match(observations)], alpha)
    return Interval(2 * matched.low - 1, 2 * matched.high - 1)


def match(observations: Iterable[tuple[bool, float]]) -> list[float]:
    """Match the two arms' observations in order of arrival and return their differences.

    Each difference is the mean of a few values of the challenger minus the mean of a few of the control, in the ratio
    of the arms' sizes: one bounded observation of the difference. This avoids a union bound over two intervals, and
    whatever affects both arms at the same time, such as a weekend, cancels out.
    """
    waiting: tuple[deque[float], deque[float]] = (deque(), deque())
    seen = [0, 0]
    differences = []
    for is_challenger, value in observations:
        waiting[is_challenger].append(value)
        seen[is_challenger] += 1
        sizes = [max(1, seen[arm] // max(1, seen[1 - arm])) for arm in (0, 1)]
        if all(len(waiting[arm]) >= sizes[arm] for arm in (0, 1)):
            control, challenger = (_take(waiting[arm], sizes[arm]) for arm in (0, 1))
            differences.append(challenger - control)
    return differences


def _take(waiting: deque[float], size: int) -> float:
    """Take ``size`` values from a queue, and a quarter of the rest so that none waits long; return their mean."""
    taken = [waiting.popleft() for _ in range(size + (len(waiting) - size) // 4)]
    return sum(taken) / len(taken)


def _lower_bound(observed: Floats, alpha: float) -> float:
    """Return the largest mean against which betting on a higher one would have won ``1 / alpha``; else 0."""
    import numpy as np

    goal = math.log(1 / alpha)
    bets = _bets(observed, goal)
    low, high = 0.0, 1.0
    while high - low > _PRECISION:
        mean = (low + high) / 2
        wealth = np.log1p(np.minimum(bets, _CAUTION / mean) * (observed - mean)).sum()
        low, high = (mean, high) if wealth >= goal else (low, mean)
    return low


def _bets(observed: Floats, goal: float) -> Floats:
    """Return the bet on each observation, from those before it: smaller for a larger variance, decreasing over time."""
    import numpy as np

    count = np.arange(1, len(observed) + 1)
    means = (0.5 + np.cumsum(observed)) / (count + 1)
    variances = (0.25 + np.cumsum((observed - means) ** 2)) / (count + 1)
    before = np.concatenate([[0.25], variances[:-1]])[: len(observed)]
    time = count + _HEAD_START
    bets: Floats = np.sqrt(2 * goal / (before * time * np.log1p(time)))
    return bets


def sample_ratio_p(epochs: Iterable[tuple[Mapping[str, int], Mapping[str, float]]]) -> float:
    """Return the always-valid p-value of the hypothesis that units were split as the weights say.

    One over the Bayes factor of Lindon and Malek, "Anytime-valid inference for multinomial count data" (NeurIPS 2022):
    a Dirichlet-multinomial centred on the promised shares, against those shares. Epochs assign different units, so
    their Bayes factors are multiplied.

    Args:
        epochs: For each epoch, the number of units that each variant got, and the share it was promised. A unit is
            counted in the epoch of its first request, which is when it was assigned.
    """
    evidence = 0.0
    for counts, shares in epochs:
        if any(count and not shares.get(ref) for ref, count in counts.items()):
            return 0.0
        evidence += math.lgamma(_CONCENTRATION) - math.lgamma(_CONCENTRATION + sum(counts.values()))
        for ref, share in shares.items():
            if share:
                prior, count = _CONCENTRATION * share, counts.get(ref, 0)
                evidence += math.lgamma(prior + count) - math.lgamma(prior) - count * math.log(share)
    return math.exp(min(0.0, -evidence))
