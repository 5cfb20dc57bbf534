"""Packing: nothing lost, nothing too long, little wasted, and fast."""

from __future__ import annotations

import random
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftreg.core.errors import DataError
from ftreg.data import pack


@given(st.integers(1, 20).flatmap(lambda capacity: st.tuples(st.just(capacity), st.lists(st.integers(1, capacity)))))
def test_every_example_is_in_one_bin_and_no_bin_overflows(case: tuple[int, list[int]]) -> None:
    """A partition of the indices into bins within capacity, at most 11/9 of the fewest possible plus one."""
    capacity, lengths = case
    bins = pack(lengths, capacity)
    assert sorted(index for group in bins for index in group) == list(range(len(lengths)))
    assert all(0 < sum(lengths[index] for index in group) <= capacity for group in bins)
    # Any two bins together hold more than one could, else best fit would not have opened the second.
    totals = sorted(sum(lengths[index] for index in group) for group in bins)
    assert len(totals) < 2 or totals[0] + totals[1] > capacity


def test_the_best_fit_is_taken() -> None:
    """6+4 and 7+3 fill two bins of ten; first come, first served would need three."""
    assert sorted(map(sorted, pack([3, 6, 4, 7], 10))) == [[0, 3], [1, 2]]


@pytest.mark.parametrize("length", [0, -1, 11])
def test_impossible_lengths_are_refused(length: int) -> None:
    """An empty example, or one longer than a bin, is an error that names it."""
    with pytest.raises(DataError, match="example 1"):
        pack([5, length], 10)


def test_hundred_thousand_lengths_take_a_moment() -> None:
    """Natural lengths fill more than 99 % of the bins, in well under five seconds of CPU time."""
    generator = random.Random(0)
    lengths = [min(4096, max(1, round(generator.lognormvariate(5.5, 1.0)))) for _ in range(100_000)]
    started = time.process_time()
    bins = pack(lengths, 4096)
    assert time.process_time() - started < 5
    assert sum(lengths) / (4096 * len(bins)) > 0.99
