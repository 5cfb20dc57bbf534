"""Routing: published test vectors, exact shares, minimal movement, and a fair split."""

from __future__ import annotations

import math
import re
from collections import Counter
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ftreg.core.errors import InputError
from ftreg.serving.experiment.routing import BUCKETS, Allocation, bucket

DOCUMENT = Path(__file__).parents[2] / "docs" / "experiments.md"
VECTORS = re.findall(r"^\| `(.*)` \| `(.+)` \| `(.+)` \| (\d+) \|$", DOCUMENT.read_text("utf-8"), flags=re.MULTILINE)

REFS = ("bot:1", "bot:2", "bot:3", "other:1", "other:2")
WEIGHTS = st.dictionaries(
    st.sampled_from(REFS), st.integers(0, 1000) | st.floats(0, 1e6), min_size=1, max_size=len(REFS)
).filter(lambda weights: any(weights.values()))


def owners(allocation: Allocation) -> list[str]:
    """Return the owner of each bucket."""
    return [allocation.ref(number) for number in range(BUCKETS)]


@pytest.mark.parametrize(("salt", "experiment", "key", "expected"), VECTORS)
def test_the_published_vectors_hold(salt: str, experiment: str, key: str, expected: str) -> None:
    """The test vectors of docs/experiments.md hold."""
    assert bucket(salt, experiment, key) == int(expected)


def test_there_are_vectors_enough() -> None:
    """There are at least six vectors, one of them not ASCII."""
    assert len(VECTORS) >= 6
    assert any(not key.isascii() for _, _, key, _ in VECTORS)


@settings(deadline=None)
@given(WEIGHTS)
def test_shares_are_the_weights_to_a_bucket(weights: dict[str, float]) -> None:
    """Every variant gets its exact share of the buckets, rounded up or down; all buckets have an owner."""
    allocation = Allocation.of(weights)
    counts = Counter(owners(allocation))
    total = sum(Fraction(weight) for weight in weights.values())
    assert allocation.epoch == 1
    assert allocation.weights == weights
    assert sum(counts.values()) == BUCKETS
    for ref, weight in weights.items():
        quota = Fraction(weight) / total * BUCKETS
        assert math.floor(quota) <= counts[ref] <= math.ceil(quota)
        assert allocation.shares[ref] == counts[ref] / BUCKETS


@settings(deadline=None)
@given(st.lists(WEIGHTS, min_size=2, max_size=5))
def test_a_change_moves_as_few_buckets_as_possible(changes: list[dict[str, float]]) -> None:
    """A change moves only the buckets that shrinking variants must give up, however many changes came before."""
    allocation = Allocation.of(changes[0])
    for weights in changes[1:]:
        changed = allocation.change(weights)
        before, after = owners(allocation), owners(changed)
        wanted = Counter(owners(Allocation.of(weights)))
        assert Counter(after) == wanted
        moved = sum(old != new for old, new in zip(before, after, strict=True))
        assert moved == sum((Counter(before) - wanted).values())
        assert changed.epoch == allocation.epoch + 1
        allocation = changed


@settings(deadline=None)
@given(WEIGHTS)
def test_allocations_are_the_same_everywhere(weights: dict[str, float]) -> None:
    """Equal weights, also scaled by a power of two, give equal runs and move nothing."""
    allocation = Allocation.of(weights)
    assert Allocation.of(dict(weights)) == allocation
    assert Allocation.of({ref: weight * 4 for ref, weight in weights.items()}).runs == allocation.runs
    assert allocation.change(weights).runs == allocation.runs


def test_ties_go_to_the_variant_named_first() -> None:
    """Of three equal weights, the first gets the remaining bucket."""
    assert Allocation.of({"a": 1, "b": 1, "c": 1}).runs == ((3334, "a"), (6667, "b"), (10_000, "c"))


def test_a_step_forth_and_back_is_where_it_began() -> None:
    """After a change that is undone, every bucket has its earlier owner."""
    allocation = Allocation.of({"a": 50, "b": 50})
    assert allocation.change({"a": 90, "b": 10}).change({"a": 50, "b": 50}).runs == allocation.runs


@pytest.mark.parametrize(
    "weights", [{}, {"a": 0, "b": 0}, {"a": -1, "b": 2}, {"a": math.nan}, {"a": math.inf}, {"a": True}, {"a": "1"}]
)
def test_weights_that_say_nothing_are_refused(weights: dict[str, float]) -> None:
    """Invalid weights are refused at the start and at a change."""
    with pytest.raises(InputError):
        Allocation.of(weights)
    with pytest.raises(InputError):
        Allocation.of({"a": 1}).change(weights)


@pytest.mark.parametrize("weights", [{"a": 80, "b": 20}, {"a": 1, "b": 1, "c": 1}, {"a": 99, "b": 1}])
def test_keys_are_split_as_promised(weights: dict[str, float]) -> None:
    """Of 100,000 keys each variant gets its share (chi-square test, one false alarm in 10^6)."""
    allocation = Allocation.of(weights)
    keys = 100_000
    counts = Counter(allocation.ref(bucket("salt", "answers", f"user-{number}")) for number in range(keys))
    chi_square = sum((counts[ref] - share * keys) ** 2 / (share * keys) for ref, share in allocation.shares.items())
    quantile = {1: 23.93, 2: 27.63}[len(weights) - 1]
    assert chi_square < quantile


def test_salts_and_experiments_deal_anew() -> None:
    """The users of one variant are spread over all variants in another experiment."""
    allocation = Allocation.of({"a": 1, "b": 1})
    keys = [f"user-{number}" for number in range(10_000)]
    first = [key for key in keys if allocation.ref(bucket("s", "one", key)) == "a"]
    for salt, experiment in (("t", "one"), ("s", "two")):
        again = sum(allocation.ref(bucket(salt, experiment, key)) == "a" for key in first)
        assert abs(again / len(first) - 0.5) < 5 * 0.5 / math.sqrt(len(first))  # five standard deviations
