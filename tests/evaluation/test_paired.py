"""The paired bootstrap: it sees through differences between examples, and not through chance."""

from __future__ import annotations

import numpy as np

from ftreg.evaluation.paired import ExampleScores, change_interval


def scores(values: np.ndarray) -> ExampleScores:
    """Return the scores of a mean."""
    return ExampleScores(values, np.ones(len(values)))


def test_a_small_change_of_every_example_is_certain() -> None:
    """A change that all examples share is found, however much the examples differ from each other."""
    before = np.random.default_rng(0).normal(0.0, 10.0, 200)
    low, high = change_interval(scores(before), scores(before + 0.01), level=0.99)
    assert abs(low - 0.01) < 1e-9
    assert abs(high - 0.01) < 1e-9


def test_noise_is_not_certain_and_the_level_widens_the_interval() -> None:
    """Changes of random sign give an interval around zero, which a higher level widens."""
    generator = np.random.default_rng(1)
    before = generator.normal(size=200)
    after = before + generator.normal(size=200)
    narrow = change_interval(scores(before), scores(after), level=0.8)
    wide = change_interval(scores(before), scores(after), level=0.99)
    assert wide[0] < 0 < wide[1]
    assert wide[0] < narrow[0] < narrow[1] < wide[1]


def test_examples_count_by_their_weights() -> None:
    """A figure is the ratio of sums: an example with more tokens counts more."""
    before = ExampleScores(np.array([1.0, 30.0]), np.array([1.0, 10.0]))
    assert before.value == 31 / 11
    after = ExampleScores(np.array([1.0, 40.0]), np.array([1.0, 10.0]))
    assert change_interval(before, after, level=0.9) == (0.0, 1.0)
