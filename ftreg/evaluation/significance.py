"""Whether two models differ by more than chance, from their scores on the same examples.

Every figure here is a ratio of two sums over the examples: a loss is the nats of all examples divided by their tokens,
an accuracy the right answers divided by the answers. Examples are what is drawn at random, never tokens, whose losses
within one example depend on each other.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

CONFIDENCE = 0.95
RESAMPLES = 2_000
_ROUNDS = 9_999  # random assignments of a test; the smallest p-value is 1 in 10,000
_CHUNK_VALUES = 1 << 22  # 32 MB of float64
_SEED = 20_260_101


@dataclass(frozen=True)
class Observations:
    """What a figure is computed from: one entry for each example, in the order of the examples.

    Attributes:
        sums: Numerators, of shape (examples,).
        weights: Denominators, of the same shape; 0 for an example that does not count.
    """

    sums: Floats
    weights: Floats

    @classmethod
    def of_scores(cls, scores: Sequence[float]) -> Observations:
        """Return those of a mean, in which an example whose score is NaN does not count."""
        values = np.asarray(scores, dtype=np.float64)
        given = ~np.isnan(values)
        return cls(np.where(given, values, 0.0), given.astype(np.float64))

    @property
    def value(self) -> float:
        """The figure."""
        return float(self.sums.sum() / self.weights.sum())

    def only(self, chosen: NDArray[np.bool_]) -> Observations:
        """Return the same in which examples that are not ``chosen`` do not count."""
        return Observations(np.where(chosen, self.sums, 0.0), np.where(chosen, self.weights, 0.0))


@dataclass(frozen=True)
class Interval:
    """A confidence interval."""

    low: float
    high: float


def paired(first: Observations, second: Observations) -> tuple[Observations, Observations]:
    """Return the observations in which only those examples count that do for both."""
    both = (first.weights > 0) & (second.weights > 0)
    return first.only(both), second.only(both)


def resample(observations: Sequence[Observations]) -> list[Floats]:
    """Compute each figure on ``RESAMPLES`` samples of the examples, drawn with replacement, the same for all figures.

    The paired bootstrap: Efron and Tibshirani, "An Introduction to the Bootstrap" (1993), chapter 13; for models on one
    test set, Koehn, "Statistical Significance Tests for Machine Translation Evaluation" (EMNLP 2004). The samples
    depend on the number of examples alone.

    Returns:
        For each of ``observations`` an array of shape (RESAMPLES,); NaN for a sample without a weight.
    """
    examples = len(observations[0].sums)
    columns = np.stack([column for one in observations for column in (one.sums, one.weights)], axis=1)
    generator = np.random.default_rng(_SEED)
    totals = np.concatenate(
        [
            generator.multinomial(examples, np.full(examples, 1 / examples), size=size) @ columns
            for size in _chunks(RESAMPLES, examples)
        ]
    )
    with np.errstate(invalid="ignore", divide="ignore"):
        return [totals[:, index] / totals[:, index + 1] for index in range(0, totals.shape[1], 2)]


def interval(resampled: Floats, level: float = CONFIDENCE) -> Interval | None:
    """Return the percentile interval of resampled figures at a confidence level; None if every sample is NaN."""
    known = resampled[~np.isnan(resampled)]
    if not len(known):
        return None
    tail = (1 - level) / 2
    low, high = np.quantile(known, (tail, 1 - tail))
    return Interval(float(low), float(high))


def randomization_test(first: Observations, second: Observations) -> float:
    """Return the p-value of the hypothesis that it does not matter which of two models computed an example.

    Under it, exchanging the two on any example gives a difference that is as likely. The p-value is the share of such
    assignments whose difference is at least as large, in either direction: of all of them if few examples differ, else
    of 9,999 random ones, with the observed one added. The paired randomization test: Fisher, "The Design of
    Experiments" (1935), section 21; Noreen, "Computer-Intensive Methods for Testing Hypotheses" (1989); for figures of
    language models, Yeh, "More accurate tests for the statistical significance of result differences" (COLING 2000). On
    scores of 0 and 1 it is McNemar's exact test (McNemar, 1947).

    Args:
        first: A model's observations.
        second: The other's; the same examples count.
    """
    gain = np.stack([second.sums - first.sums, second.weights - first.weights], axis=1)
    gain = gain[(gain != 0).any(axis=1)]
    totals = np.array([[one.sums.sum(), one.weights.sum()] for one in (first, second)])

    def difference(moved: Floats) -> Floats:
        ours, theirs = totals[0] + moved, totals[1] - moved
        return np.abs(ours[:, 0] / ours[:, 1] - theirs[:, 0] / theirs[:, 1])

    observed = difference(np.zeros((1, 2)))[0]
    least = observed * (1 - 1e-9)  # rounding must not tell equal differences apart
    if 2 ** len(gain) <= _ROUNDS:
        every = (np.arange(2 ** len(gain))[:, None] >> np.arange(len(gain))) & 1
        return float((difference(every @ gain) >= least).mean())
    generator = np.random.default_rng(_SEED)
    reached = sum(
        int((difference(generator.integers(0, 2, (size, len(gain))) @ gain) >= least).sum())
        for size in _chunks(_ROUNDS, len(gain))
    )
    return (1 + reached) / (1 + _ROUNDS)


def holm(p_values: Sequence[float]) -> list[float]:
    """Correct p-values for the number of tests, so that any false finding among them is as rare as in a single test.

    Holm, "A Simple Sequentially Rejective Multiple Test Procedure" (Scandinavian Journal of Statistics, 1979): the
    smallest is multiplied by the number of tests, the next by one less, and so on; none is below one before it, or
    above 1.
    """
    corrected = [0.0] * len(p_values)
    largest = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        corrected[index] = largest
    return corrected


def _chunks(total: int, width: int) -> Iterator[int]:
    """Yield numbers of rows of ``width`` values that fit in bounded memory, ``total`` in all."""
    step = max(1, _CHUNK_VALUES // max(1, width))
    while total > 0:
        yield min(step, total)
        total -= step
