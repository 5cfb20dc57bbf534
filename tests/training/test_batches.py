"""The order of batches: complete, seeded, grouped by length, the same for every split of a step."""

from __future__ import annotations

import random
from itertools import chain

from hypothesis import given
from hypothesis import strategies as st

from ftreg.training.batches import Batches

LENGTHS = st.lists(st.integers(1, 100), min_size=1, max_size=120)
SIZES = st.integers(1, 9)


@given(LENGTHS, SIZES, SIZES, st.booleans(), st.integers(0, 5))
def test_each_epoch_sees_every_row_once(lengths, batch_size, accumulation, grouped, seed):
    """An epoch is a permutation of the rows in as many batches as promised, all full but the last of the last step."""
    batches = Batches(lengths, batch_size=batch_size, accumulation=accumulation, grouped=grouped, seed=seed)
    for epoch in range(2):
        batches.set_epoch(epoch)
        drawn = list(batches)
        assert sorted(index for batch in drawn for index in batch) == list(range(len(lengths)))
        assert len(drawn) == len(batches)
        assert all(len(batch) == batch_size for batch in drawn[:-1])


@given(LENGTHS, SIZES, SIZES, st.booleans(), st.integers(0, 5))
def test_a_steps_rows_do_not_depend_on_its_forward_passes(lengths, batch_size, accumulation, grouped, seed):
    """A step of several forward passes has the rows of a step of one large pass."""
    whole = list(Batches(lengths, batch_size=batch_size * accumulation, grouped=grouped, seed=seed))
    parts = list(Batches(lengths, batch_size=batch_size, accumulation=accumulation, grouped=grouped, seed=seed))
    steps = [list(chain(*parts[start : start + accumulation])) for start in range(0, len(parts), accumulation)]
    assert steps == whole


def test_order_depends_on_seed_and_epoch_alone():
    """The same seed and epoch give the same order whatever was drawn before; other ones give other orders."""
    batches = Batches(list(range(1, 90)), batch_size=8, grouped=True, seed=1)
    first = list(batches)
    assert list(batches) == first
    batches.set_epoch(3)
    third = list(batches)
    assert third != first
    other = Batches(list(range(1, 90)), batch_size=8, grouped=True, seed=1)
    other.set_epoch(3)
    assert list(other) == third
    assert list(Batches(list(range(1, 90)), batch_size=8, grouped=True, seed=2)) != first


def test_grouping_saves_padding_and_starts_with_the_longest():
    """Batches of similar length hold far less padding than random ones, and the longest row comes first."""
    generator = random.Random(0)
    lengths = [int(generator.lognormvariate(4, 0.8)) + 1 for _ in range(1000)]

    def padded(grouped: bool) -> int:
        batches = Batches(lengths, batch_size=8, grouped=grouped, seed=0)
        return sum(len(batch) * max(lengths[index] for index in batch) for batch in batches)

    assert padded(grouped=True) < 1.15 * sum(lengths)
    assert padded(grouped=False) > 1.8 * sum(lengths)
    first = next(iter(Batches(lengths, batch_size=8, grouped=True, seed=0)))
    assert max(lengths) in [lengths[index] for index in first]
