"""Intervals and tests: against exact values, against the definition, and by how often they are wrong."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest

from ftreg.evaluation.significance import Observations, holm, interval, paired, randomization_test, resample


def of(*scores: float) -> Observations:
    """Observations of a mean."""
    return Observations.of_scores(scores)


def test_a_missing_score_does_not_count() -> None:
    """An example without a score changes no mean, and counts for neither version of a pair."""
    first, second = paired(of(1.0, math.nan, 0.0), of(0.0, 1.0, math.nan))
    assert of(1.0, math.nan, 0.0).value == 0.5
    assert (first.value, second.value) == (1.0, 0.0)


@pytest.mark.parametrize(("only_first", "only_second"), [(0, 6), (1, 7), (2, 3), (4, 4)])
def test_scores_of_0_and_1_are_tested_by_mcnemar(only_first: int, only_second: int) -> None:
    """If few examples differ, the p-value is that of McNemar's exact test: a two-sided sign test of those."""
    first = of(*[1.0] * only_first, *[0.0] * only_second, 1.0, 0.0, 1.0)
    second = of(*[0.0] * only_first, *[1.0] * only_second, 1.0, 0.0, 1.0)
    differing = only_first + only_second
    tail = sum(math.comb(differing, k) for k in range(min(only_first, only_second) + 1)) / 2**differing
    assert randomization_test(first, second) == pytest.approx(min(1.0, 2 * tail))


def test_a_ratio_is_tested_by_exchanging_whole_examples() -> None:
    """For losses per token of examples of different lengths, the exact p-value is that of the definition."""
    first = Observations(np.array([3.0, 8.0, 2.0, 5.0]), np.array([2.0, 9.0, 1.0, 4.0]))
    second = Observations(np.array([1.0, 7.0, 2.5, 3.0]), np.array([2.0, 8.0, 1.0, 4.0]))

    def difference(exchanged: tuple[int, ...]) -> float:
        pairs = [
            (two, one) if swap else (one, two)
            for swap, one, two in zip(
                exchanged,
                zip(first.sums, first.weights, strict=True),
                zip(second.sums, second.weights, strict=True),
                strict=True,
            )
        ]
        ratios = [sum(pair[side][0] for pair in pairs) / sum(pair[side][1] for pair in pairs) for side in (0, 1)]
        return abs(ratios[0] - ratios[1])

    observed = difference((0, 0, 0, 0))
    every = [difference(exchanged) >= observed - 1e-12 for exchanged in product((0, 1), repeat=4)]
    assert randomization_test(first, second) == pytest.approx(sum(every) / len(every))


def test_random_assignments_are_close_to_all() -> None:
    """With more examples than can be enumerated, the p-value is that of the sign test, but for chance."""
    first, second = of(*[0.0] * 14, *[1.0] * 6), of(*[1.0] * 14, *[0.0] * 6)
    exact = 2 * sum(math.comb(20, k) for k in range(7)) / 2**20
    assert randomization_test(first, second) == pytest.approx(exact, abs=0.02)


def test_equal_versions_do_not_differ() -> None:
    """The p-value of no difference is 1, and of a clear one as small as it can be."""
    scores = [0.1 * n for n in range(40)]
    assert randomization_test(of(*scores), of(*scores)) == 1.0
    assert randomization_test(of(*scores), of(*(score + 1 for score in scores))) == 1 / 10_000


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    """Of 200 samples of a known mean, about 95 % of the intervals contain it."""
    source = np.random.default_rng(1)
    samples = [Observations.of_scores(source.normal(3.0, 1.0, 60)) for _ in range(200)]
    intervals = [interval(found) for found in resample(samples)]
    held = sum(found is not None and found.low <= 3.0 <= found.high for found in intervals)
    assert 0.90 <= held / 200 <= 0.99


def test_pairs_are_resampled_together() -> None:
    """A constant difference between two versions has no spread, however much the examples have."""
    scores = np.arange(50.0)
    first, second = resample([Observations.of_scores(scores), Observations.of_scores(scores + 0.5)])
    assert np.allclose(second - first, 0.5)
    assert first.std() > 1.0
    assert interval(np.full(3, math.nan)) is None


def test_a_higher_level_widens_an_interval() -> None:
    """Changes of random sign give an interval around zero, which is wider the surer it has to be."""
    source = np.random.default_rng(1)
    first, second = resample([Observations.of_scores(source.normal(size=200)) for _ in range(2)])
    narrow, wide = interval(second - first, 0.8), interval(second - first, 0.99)
    assert narrow is not None
    assert wide is not None
    assert wide.low < narrow.low < 0 < narrow.high < wide.high


def test_examples_count_by_their_weights() -> None:
    """A figure is the ratio of sums: an example with more tokens counts more."""
    assert Observations(np.array([1.0, 30.0]), np.array([1.0, 10.0])).value == 31 / 11


def test_holm() -> None:
    """The worked example of the definition, in any order; nothing is above 1."""
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []
