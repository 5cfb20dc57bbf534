"""What may be concluded from an experiment, at any time and as often as one looks.

Fixed-sample tests are wrong for somebody who looks at the figures every day and stops when they please. What stands
here holds at all times together: the probability that an interval *ever* misses the truth is at most ``alpha``.
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
_CAUTION = 0.5  # at most this share of the wealth is ever at stake: c in the paper
_HEAD_START = 30  # bets begin as small as if so many observations had gone before: dear for a few, tighter for hundreds
_PRECISION = 1e-6
# How surely the prior of the sample-ratio check expects the promised shares, counted in units.
_CONCENTRATION = 100.0


@dataclass(frozen=True)
class Interval:
    """Where the truth is, with all but ``alpha`` probability."""

    low: float
    high: float


def mean_interval(values: Sequence[float], alpha: float = ALPHA) -> Interval:
    """The confidence sequence, at this moment, for the mean of observations from 0 to 1.

    The hedged-capital confidence sequence of Waudby-Smith and Ramdas, "Estimating means of bounded random variables by
    betting" (JRSS B, 2023), Theorem 3, with their predictable plug-in bets: the means against which a cautious gambler
    could not have multiplied the money by ``2 / alpha``. It is tighter than the empirical-Bernstein intervals of their
    Theorem 2, most of all for rates near 0. Intervals are not intersected over time, so that one of a mean that drifts
    follows it instead of becoming empty.

    Args:
        values: Observations in the order in which they came; each has the same mean, given those before.
        alpha: The probability that the mean is ever, for any number of observations, outside.
    """
    import numpy as np

    observed = np.asarray(values, dtype=np.float64)
    return Interval(_lower_bound(observed, alpha / 2), 1.0 - _lower_bound(1.0 - observed, alpha / 2))


def difference_interval(observations: Iterable[tuple[bool, float]], alpha: float = ALPHA) -> Interval:
    """The confidence sequence, at this moment, for the challenger's mean minus the control's; see ``mean_interval``.

    Args:
        observations: ``(is_challenger, value)`` in the order in which they came, values from 0 to 1. Who comes next
            must not depend on the values before, as it does not where users are dealt by hash.
        alpha: The probability that the difference is ever outside.
    """
    matched = mean_interval([(difference + 1) / 2 for difference in match(observations)], alpha)
    return Interval(2 * matched.low - 1, 2 * matched.high - 1)


def match(observations: Iterable[tuple[bool, float]]) -> list[float]:
    """Differences of the two arms' observations, matched in the order in which they came.

    Each is the mean of a few challengers' values minus that of a few controls', as many as the arms' sizes are to one
    another; so it is one bounded observation of the difference. That spares the union bound over two intervals, and
    what both arms go through together, such as a weekend, cancels out.
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
    """The mean of the first ``size`` of a queue, and of a quarter of those beyond, lest they wait too long."""
    taken = [waiting.popleft() for _ in range(size + (len(waiting) - size) // 4)]
    return sum(taken) / len(taken)


def _lower_bound(observed: Floats, alpha: float) -> float:
    """The largest mean at which betting on a higher one would have won ``1 / alpha``; 0 if there is none."""
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
    """How much to stake on each observation, from what was known before it: little where they scatter, ever less."""
    import numpy as np

    count = np.arange(1, len(observed) + 1)
    means = (0.5 + np.cumsum(observed)) / (count + 1)
    variances = (0.25 + np.cumsum((observed - means) ** 2)) / (count + 1)
    before = np.concatenate([[0.25], variances[:-1]])[: len(observed)]
    time = count + _HEAD_START
    bets: Floats = np.sqrt(2 * goal / (before * time * np.log1p(time)))
    return bets


def sample_ratio_p(epochs: Iterable[tuple[Mapping[str, int], Mapping[str, float]]]) -> float:
    """The always-valid p-value of "units were dealt as the weights promised".

    One over the Bayes factor of Lindon and Malek, "Anytime-valid inference for multinomial count data" (NeurIPS 2022):
    Dirichlet-multinomial, centred on the promised shares, against those shares. Epochs deal different units, so that
    their factors are multiplied.

    Args:
        epochs: For each epoch of the weights, how many units each variant got and which share it was promised. A unit
            is counted in the epoch in which it first came: where it went later was decided then.
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
