"""Routing: published test vectors, exact shares, minimal movement, and a fair split."""

from __future__ import annotations

import math
import re
from collections import Counter
from fractions import Fraction
from itertools import pairwise
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
    found: list[str] = []
    for end, ref in allocation.runs:
        found += [ref] * (end - len(found))
    return found


def history(changes: list[dict[str, float]]) -> list[Allocation]:
    """Return the first allocation and those after each change."""
    found = [Allocation.of(changes[0])]
    for weights in changes[1:]:
        found.append(found[-1].change(weights, found[:-1]))
    return found


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
    assert owners(allocation) == [allocation.ref(number) for number in range(BUCKETS)]
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
    for old, new in pairwise(history(changes)):
        before, after = owners(old), owners(new)
        wanted = Counter(owners(Allocation.of(new.weights)))
        assert Counter(after) == wanted
        moved = sum(one != other for one, other in zip(before, after, strict=True))
        assert moved == sum((Counter(before) - wanted).values())
        assert new.epoch == old.epoch + 1


@settings(deadline=None)
@given(st.lists(WEIGHTS, min_size=2, max_size=5), st.data())
def test_changes_that_are_taken_back_return_every_bucket(changes: list[dict[str, float]], data: st.DataObject) -> None:
    """Whatever came before, taking back the last changes one by one gives each bucket the owner that it had then."""
    steps = data.draw(st.integers(1, len(changes) - 1), "steps taken back")
    there = history(changes)
    back = history([*changes, *reversed(changes[-1 - steps : -1])])[len(changes) :]
    for allocation, earlier in zip(back, reversed(there[-1 - steps : -1]), strict=True):
        assert allocation.runs == earlier.runs


@settings(deadline=None)
@given(st.lists(st.integers(0, 100), min_size=2, max_size=8))
def test_of_two_variants_each_weight_has_its_users(percents: list[int]) -> None:
    """With two variants, the users of each depend on the weights alone, in whatever steps they were reached."""
    for allocation in history([{"a": 100 - percent, "b": percent} for percent in (20, *percents)])[1:]:
        direct = history([{"a": 80, "b": 20}, allocation.weights])[-1]
        assert allocation.runs == direct.runs


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


def test_a_ramp_goes_up_and_down() -> None:
    """A challenger keeps its users while it grows, and they get back to it in the same order after a setback."""
    one, five, half, down, up = history([{"a": 100 - share, "b": share} for share in (1, 5, 50, 20, 30)])
    users = [{number for number, ref in enumerate(owners(each)) if ref == "b"} for each in (one, five, down, up, half)]
    assert all(fewer < more for fewer, more in pairwise(users))


def test_users_go_back_to_the_variant_that_they_had() -> None:
    """A variant that shrinks prefers to give back: its other users, even newer ones, stay where they are."""
    first, lost, gained, back = history(
        [
            {"a": 50, "b": 50, "c": 0},
            {"a": 40, "b": 60, "c": 0},  # a gives 1,000 buckets to b
            {"a": 40, "b": 50, "c": 10},
            {"a": 50, "b": 50, "c": 0},
        ]
    )
    assert gained.runs != lost.runs
    assert back.runs == first.runs


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


def test_salt_experiment_and_key_are_apart() -> None:
    """Where one ends and the next begins matters, so these three triples do not share all their buckets."""
    keys = [f"c{number}" for number in range(50)]
    triples = [
        [("ab", "x", key) for key in keys],
        [("a", "bx", key) for key in keys],
        [("a", "b", f"x{key}") for key in keys],
    ]
    assert len({tuple(bucket(*triple) for triple in each) for each in triples}) == 3


def test_salts_and_experiments_deal_anew() -> None:
    """The users of one variant are spread over all variants in another experiment."""
    allocation = Allocation.of({"a": 1, "b": 1})
    keys = [f"user-{number}" for number in range(10_000)]
    first = [key for key in keys if allocation.ref(bucket("s", "one", key)) == "a"]
    for salt, experiment in (("t", "one"), ("s", "two")):
        again = sum(allocation.ref(bucket(salt, experiment, key)) == "a" for key in first)
        assert abs(again / len(first) - 0.5) < 5 * 0.5 / math.sqrt(len(first))  # five standard deviations
