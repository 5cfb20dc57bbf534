"""The statistics hold at every look: simulated over whole paths, with fixed seeds."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ftreg.serving.experiment.statistics import _bets, difference_interval, match, mean_interval, sample_ratio_p

PATHS = 300
ALPHA = 0.05
# So many of 300 paths may miss, by chance once in a thousand times, where the true rate is 5 %.
MOST_MISSES = 28
LOOKS = [2**power for power in range(12)]

DISTRIBUTIONS = {
    "coin": lambda random, size: (random.random(size) < 0.7).astype(float),
    "rare": lambda random, size: (random.random(size) < 0.02).astype(float),
    "beta": lambda random, size: random.beta(2, 5, size),
    "constant": lambda random, size: np.full(size, 0.4),
}
MEANS = {"coin": 0.7, "rare": 0.02, "beta": 2 / 7, "constant": 0.4}


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_a_mean_is_ever_missed_by_few_paths(name: str) -> None:
    """Over looks after 1, 2, 4, ... 2048 observations, at most 5 % of the paths ever miss the mean."""
    random = np.random.default_rng(1)
    misses = 0
    for _ in range(PATHS):
        path = DISTRIBUTIONS[name](random, LOOKS[-1])
        intervals = [mean_interval(path[:size], ALPHA) for size in LOOKS]
        misses += any(not interval.low <= MEANS[name] <= interval.high for interval in intervals)
    assert misses <= MOST_MISSES


@pytest.mark.parametrize(("share", "control", "challenger"), [(0.5, 0.7, 0.7), (0.2, 0.7, 0.6), (0.1, 0.01, 0.02)])
def test_a_difference_is_ever_missed_by_few_paths(share: float, control: float, challenger: float) -> None:
    """The same holds for differences, for randomly assigned arms of any size."""
    random = np.random.default_rng(2)
    misses = 0
    for _ in range(PATHS):
        arms = random.random(LOOKS[-1]) < share
        values = random.random(LOOKS[-1]) < np.where(arms, challenger, control)
        path = [(bool(arm), float(value)) for arm, value in zip(arms, values, strict=True)]
        intervals = [difference_interval(path[:size], ALPHA) for size in LOOKS]
        misses += any(not interval.low <= challenger - control <= interval.high for interval in intervals)
    assert misses <= MOST_MISSES


def test_a_fixed_sample_interval_would_fail_this_test() -> None:
    """The tests above can fail: Wald's 95 % interval misses far more paths over as many looks."""
    random = np.random.default_rng(1)
    misses = 0
    for _ in range(PATHS):
        path = DISTRIBUTIONS["coin"](random, LOOKS[-1])
        means = np.cumsum(path) / np.arange(1, len(path) + 1)
        widths = 1.96 * np.sqrt(0.7 * 0.3 / np.arange(1, len(path) + 1))
        misses += bool((np.abs(means - 0.7) > widths)[LOOKS[3] - 1 :].any())
    assert misses > 2 * MOST_MISSES


@pytest.mark.parametrize("name", DISTRIBUTIONS)
@pytest.mark.parametrize("size", [200, 2000])
def test_intervals_are_tighter_than_empirical_bernstein(name: str, size: int) -> None:
    """The intervals are tighter than those of Theorem 2 of the same paper."""
    values = DISTRIBUTIONS[name](np.random.default_rng(6), size)
    goal, time = math.log(2 / ALPHA), np.arange(1, size + 1)
    means = (0.5 + np.cumsum(values)) / (time + 1)
    variances = (0.25 + np.cumsum((values - means) ** 2)) / (time + 1)
    before, spread = np.concatenate([[0.5], means[:-1]]), np.concatenate([[0.25], variances[:-1]])
    bets = np.minimum(np.sqrt(2 * goal / (spread * time * np.log1p(time))), 0.5)
    cost = (values - before) ** 2 * (-np.log(1 - bets) - bets)
    bernstein = 2 * (goal + cost.sum()) / bets.sum()
    interval = mean_interval(values, ALPHA)
    assert interval.high - interval.low < bernstein


@settings(deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=40))
def test_a_bet_is_made_before_its_outcome(values: list[float]) -> None:
    """A bet depends only on earlier observations."""
    bets = _bets(np.array(values), 3.0)
    assert bets.min() > 0
    for size in (1, len(values) // 2 + 1):
        changed = np.array([*values[: size - 1], 1 - values[size - 1]])
        assert _bets(changed, 3.0) == pytest.approx(bets[:size])


def test_intervals_find_what_is_there() -> None:
    """1,000 users of each variant usually distinguish scores of 70 % and 80 %, and error rates of 1 % and 5 %."""
    random = np.random.default_rng(3)
    for control, challenger, users in ((0.7, 0.8, 2000), (0.01, 0.05, 2000)):
        found = 0
        for _ in range(20):
            arms = random.random(users) < 0.5
            values = random.random(users) < np.where(arms, challenger, control)
            found += difference_interval(zip(arms.tolist(), values.tolist(), strict=True)).low > 0
        assert found >= 16


def test_matching_loses_little() -> None:
    """The standard deviation of the matched mean is at most 15 % above that of the unmatched difference."""
    random = np.random.default_rng(4)
    for share in (0.5, 0.2, 0.02):
        means = []
        for _ in range(300):
            arms = (random.random(1500) < share).tolist()
            means.append(np.mean(match(zip(arms, random.random(1500).tolist(), strict=True))))
        ideal = math.sqrt(1 / 12 / 1500 / share + 1 / 12 / 1500 / (1 - share))
        assert np.std(means) < 1.15 * ideal


def test_matching_does_not_wait() -> None:
    """When the weights change from 1:1 to 9:1, observations are still matched with others of about the same time."""
    arms = [bool(number % 2) for number in range(2000)] + [number % 10 == 0 for number in range(2000)]
    times = [number / 4000 for number in range(4000)]
    differences = match(zip(arms, times, strict=True))
    assert max(map(abs, differences)) < 0.02


@settings(deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.floats(0, 1)), max_size=60))
def test_what_was_matched_stays_matched(observations: list[tuple[bool, float]]) -> None:
    """More observations only append differences, each between -1 and 1."""
    differences = match(observations)
    assert (
        match(observations[: len(observations) // 2])
        == differences[: len(match(observations[: len(observations) // 2]))]
    )
    assert all(-1 <= difference <= 1 for difference in differences)


@settings(deadline=None)
@given(st.lists(st.floats(0, 1), max_size=80))
def test_an_interval_is_one(values: list[float]) -> None:
    """Intervals lie within 0 and 1, are ordered, mirror with the values, and are [0, 1] without values."""
    interval = mean_interval(values)
    assert 0 <= interval.low <= interval.high <= 1
    mirrored = mean_interval([1 - value for value in values])
    assert mirrored.low == pytest.approx(1 - interval.high, abs=1e-4)
    if not values:
        assert (interval.low, interval.high) == (0, 1)


def test_a_mean_that_drifts_is_followed() -> None:
    """The interval of a drifting mean follows it and never becomes empty."""
    drifting = mean_interval([1.0, 0.0, 1.0, 1.0] * 500 + [0.0, 0.0, 0.0, 1.0] * 2000)
    assert drifting.low < drifting.high < 0.6


def test_a_fair_split_is_seldom_alarming() -> None:
    """Over paths of 2,000 units in two epochs, p ever falls below 0.05 in at most 5 %."""
    random = np.random.default_rng(5)
    shares = ({"a": 0.8, "b": 0.2}, {"a": 0.5, "b": 0.3, "c": 0.2})
    alarms = 0
    for _ in range(PATHS):
        first = np.cumsum(random.random(1000) < 0.2)
        second = random.multinomial(1, [0.5, 0.3, 0.2], 1000).cumsum(axis=0)
        done = ({"a": 1000 - int(first[-1]), "b": int(first[-1])}, shares[0])
        ps = [
            sample_ratio_p([({"a": size - int(first[size - 1]), "b": int(first[size - 1])}, shares[0])])
            for size in range(1, 1001)
        ]
        ps += [sample_ratio_p([done, (dict(zip("abc", row, strict=True)), shares[1])]) for row in second.tolist()]
        alarms += min(ps) < ALPHA
    assert alarms <= MOST_MISSES


def test_a_broken_split_is_found() -> None:
    """A variant that loses a tenth of its users among 8,000 is noticed, and one with users but weight 0 at once."""
    assert sample_ratio_p([({"a": 4000, "b": 3600}, {"a": 0.5, "b": 0.5})]) < 0.001
    assert sample_ratio_p([({"a": 40, "b": 36}, {"a": 0.5, "b": 0.5})]) > 0.2
    assert sample_ratio_p([({"a": 10, "b": 1}, {"a": 1.0, "b": 0.0})]) == 0
    assert sample_ratio_p([({"a": 10}, {"a": 1.0, "b": 0.0})]) == 1
    assert sample_ratio_p([]) == 1


def test_evidence_of_epochs_adds_up() -> None:
    """The evidence of two epochs is multiplied."""
    epoch = ({"a": 2000, "b": 1790}, {"a": 0.5, "b": 0.5})
    assert sample_ratio_p([epoch]) > 0.001 > sample_ratio_p([epoch, epoch])
