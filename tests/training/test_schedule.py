"""Learning-rate schedules."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftreg.training.schedule import learning_rate_factor

SCHEDULES = ["linear", "cosine", "constant", "constant_with_warmup", "one_cycle"]


@given(st.sampled_from(SCHEDULES), st.integers(1, 200), st.floats(0, 0.99))
def test_no_step_is_lost(schedule, total, warmup):
    """Every step has a rate above 0 and at most the peak, and one step has the peak."""
    rates = [learning_rate_factor(schedule, step, total=total, warmup=warmup) for step in range(total)]
    assert all(0 < rate <= 1 for rate in rates)
    assert max(rates) == 1


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_shapes(schedule):
    """The rate rises for the warm-up's share of the steps, then falls or stays as the schedule's name says."""
    rates = [learning_rate_factor(schedule, step, total=100, warmup=0.2) for step in range(100)]
    if schedule == "constant":
        assert rates == [1.0] * 100
        return
    assert all(before < after for before, after in pairwise(rates[:21]))
    assert rates[20] == 1
    if schedule == "constant_with_warmup":
        assert rates[20:] == [1.0] * 80
        return
    assert all(before > after for before, after in pairwise(rates[20:]))
    assert rates[60] == pytest.approx(0.5, abs=1e-5)
    assert rates[99] < 0.02
