"""Splitting: a partition that keeps groups together, spreads strata, and depends on content and seed alone."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftreg.core.errors import DataError, UnknownName
from ftreg.core.recipe import DataConfig
from ftreg.core.types import Example, Message, NullProgress, Splits
from ftreg.data import split_examples


def make(values: Sequence[object], column: str = "topic") -> list[Example]:
    """Distinct examples whose ``column`` holds ``values``."""
    return [
        Example(messages=(Message("user", f"q{index}"), Message("assistant", f"a{index}")), fields={column: value})
        for index, value in enumerate(values)
    ]


def config(**settings: object) -> DataConfig:
    """A data section of a recipe."""
    return DataConfig(path="rows.jsonl", **settings)


def names(splits: Splits) -> dict[str, str]:
    """The split of each example, by its question."""
    parts = {"train": splits.train, "validation": splits.validation, "test": splits.test}
    return {example.messages[0].content: name for name, part in parts.items() for example in part}


def counts(splits: Splits) -> tuple[int, int, int]:
    """Sizes of train, validation and test."""
    return len(splits.train), len(splits.validation), len(splits.test)


shares = st.tuples(st.floats(0, 0.45), st.floats(0, 0.45)).map(lambda pair: {"validation": pair[0], "test": pair[1]})
topics = st.lists(st.integers(0, 6), min_size=1, max_size=60)
modes = st.sampled_from([{}, {"group_by": "topic"}, {"stratify_by": "topic"}])


@given(topics, shares, modes, st.integers(0, 3))
def test_every_example_is_in_exactly_one_split(
    values: list[int], share: dict[str, float], mode: dict[str, str], seed: int
) -> None:
    """No row is lost or doubled, train is never empty, rows keep their order, and the result is reproducible."""
    examples = make(values)
    splits = split_examples(examples, config(**share, **mode, seed=seed))
    parts = [*splits.train, *splits.validation, *splits.test]
    assert sorted(map(id, parts)) == sorted(map(id, examples))
    assert splits.train
    for part in (splits.train, splits.validation, splits.test):
        positions = [int(example.messages[0].content[1:]) for example in part]
        assert positions == sorted(positions)
    assert names(split_examples(examples, config(**share, **mode, seed=seed))) == names(splits)


@given(topics, shares)
def test_a_group_stays_in_one_split(values: list[int], share: dict[str, float]) -> None:
    """No value of the group column is in two splits."""
    splits = split_examples(make(values), config(**share, group_by="topic"))
    where: dict[object, set[str]] = {}
    for name, part in (("train", splits.train), ("validation", splits.validation), ("test", splits.test)):
        for example in part:
            where.setdefault(example.fields["topic"], set()).add(name)
    assert all(len(found) == 1 for found in where.values())


@given(topics, shares)
def test_each_stratum_is_spread_in_proportion(values: list[int], share: dict[str, float]) -> None:
    """Each value has a row in train, and each split within two rows of its share of each value."""
    splits = split_examples(make(values), config(**share, stratify_by="topic"))
    sizes = Counter(values)
    for name, part in (("validation", splits.validation), ("test", splits.test)):
        found = Counter(example.fields["topic"] for example in part)
        for topic, size in sizes.items():
            assert abs(found[topic] - share[name] * size) <= 2
    assert {example.fields["topic"] for example in splits.train} == set(values)


@given(topics, shares, modes, st.randoms(use_true_random=False))
def test_the_order_of_rows_does_not_matter(
    values: list[int], share: dict[str, float], mode: dict[str, str], shuffler: object
) -> None:
    """Shuffled rows land in the same splits."""
    examples = make(values)
    before = names(split_examples(examples, config(**share, **mode)))
    shuffler.shuffle(examples)  # type: ignore[attr-defined]
    if mode == {"group_by": "topic"}:  # equal sizes may tie when a split would stay empty
        return
    assert names(split_examples(examples, config(**share, **mode))) == before


@pytest.mark.parametrize("rows", [20, 100, 997])
def test_random_splits_have_their_exact_size(rows: int) -> None:
    """A tenth and a fifth of the rows, to the nearest row."""
    found = counts(split_examples(make([0] * rows), config(validation=0.1, test=0.2)))
    assert found[1] == pytest.approx(0.1 * rows, abs=1)
    assert found[2] == pytest.approx(0.2 * rows, abs=1)
    assert sum(found) == rows


def test_strata_smaller_than_a_share_still_add_up() -> None:
    """Forty values of four rows give a tenth to validation in total, though no value alone reaches half a row."""
    found = counts(split_examples(make([index % 40 for index in range(160)]), config(stratify_by="topic")))
    assert found == (144, 16, 0)


def test_the_seed_changes_the_split() -> None:
    """Different seeds hold out different rows."""
    examples = make([0] * 50)
    assert names(split_examples(examples, config(seed=0))) != names(split_examples(examples, config(seed=1)))


def test_the_split_is_pinned() -> None:
    """The same rows are held out in every release, because recorded datasets depend on it."""
    splits = split_examples(make([0] * 12), config(validation=0.25))
    assert [example.messages[0].content for example in splits.validation] == ["q6", "q8", "q10"]


def test_the_split_does_not_depend_on_pythons_hash_seed() -> None:
    """Two processes with different hash seeds split alike."""
    code = (
        "from tests.data.test_split import *\n"
        "print(sorted(names(split_examples(make(list('abcab') * 9), config(stratify_by='topic'))).items()))"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", code], env={"PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True
        ).stdout
        for seed in ("1", "2")
    }
    assert len(outputs) == 1


def test_copies_of_an_example_stay_together() -> None:
    """Held-out rows are not also trained on, even if rows are repeated."""
    examples = [example for example in make([0] * 20) for _ in range(3)]
    splits = split_examples(examples, config(validation=0.3))
    held_out = {example.messages[0].content for example in splits.validation}
    assert len(splits.validation) == 3 * len(held_out)
    assert not held_out & {example.messages[0].content for example in splits.train}


@pytest.mark.parametrize(("rows", "expected"), [(1, (1, 0, 0)), (2, (1, 0, 1)), (3, (1, 1, 1)), (6, (4, 1, 1))])
def test_small_sets_keep_train_first(rows: int, expected: tuple[int, int, int]) -> None:
    """With few rows, train gets the first, then test, then validation."""
    assert counts(split_examples(make([0] * rows), config(validation=0.1, test=0.1))) == expected


class Listener(NullProgress):
    """A Progress that keeps the messages."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, message: str) -> None:
        self.said.append(message)


def test_an_empty_split_is_told() -> None:
    """If there are too few rows for a split, its name and share are reported."""
    listener = Listener()
    split_examples(make([0]), config(validation=0.1), listener)
    assert listener.said == ["the validation split is empty: 1 x 0.1 examples are too few"]
    split_examples(make([0] * 2), config(validation=0.1), listener)
    assert len(listener.said) == 1


def test_a_column_can_name_the_split() -> None:
    """All usual names of splits are understood, in upper or lower case; shares are ignored then."""
    values = ["train", "Training", "validation", "valid", "val", "dev", "test", " TEST "]
    assert counts(split_examples(make(values, "split"), config(split_by="split"))) == (2, 4, 2)


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        (["train", "holdout"], "'holdout'"),
        (["train", 1], "of example 2 is 1, which is not the name of a split"),
        (["train", None], "no value in example 2"),
        (["test", "val"], "nothing to train on"),
    ],
)
def test_a_split_column_must_make_sense(values: list[object], reason: str) -> None:
    """Unknown and missing names of splits, and a file without train rows, are errors."""
    with pytest.raises(DataError) as caught:
        split_examples(make(values, "split"), config(split_by="split"))
    assert reason in caught.value.message


@pytest.mark.parametrize("setting", ["group_by", "stratify_by", "split_by"])
def test_an_unknown_column_gets_a_suggestion(setting: str) -> None:
    """A misspelt column is an error with the nearest one and the setting that named it."""
    with pytest.raises(UnknownName, match="Did you mean topic") as caught:
        split_examples(make([0, 1]), config(**{setting: "topc"}))
    assert caught.value.where == f"data.{setting}"


def test_no_examples_cannot_be_split() -> None:
    """An empty data set is an error, not three empty splits."""
    with pytest.raises(DataError, match="no examples"):
        split_examples([], config())
