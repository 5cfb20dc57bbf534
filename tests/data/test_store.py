"""Dataset folders and files of answers: what is written is read back; the same splits are written as the same bytes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftreg.core.errors import DataError
from ftreg.core.types import AnsweredPrompt, Example, Message, Splits
from ftreg.data import AnswerFile, open_split, read_dataset, write_dataset, write_row
from ftreg.data.store import from_json, to_json

text = st.text(st.characters(exclude_categories=("Cs",)), max_size=20)
json_values = st.none() | st.booleans() | st.integers(-(2**53), 2**53) | text | st.lists(text, max_size=2)
fields = st.dictionaries(text, json_values, max_size=3)
chats = st.builds(
    Example,
    messages=st.lists(st.builds(Message, st.sampled_from(["user", "assistant"]), text), min_size=1, max_size=3).map(
        tuple
    ),
    fields=fields,
)
examples = chats | st.builds(Example, text=text, fields=fields)


@given(examples)
def test_an_example_survives_json(example: Example) -> None:
    """Turns, text and fields come back as they were, through the bytes of a file."""
    assert from_json(json.loads(json.dumps(to_json(example)))) == example


def some_splits() -> Splits:
    """Splits with a chat and a text in train, nothing in validation, and one text in test."""
    chat = Example(messages=(Message("user", "ä\u2028"), Message("assistant", "b")), fields={"topic": "x", "a": 1})
    return Splits(train=(chat, Example(text="t")), test=(Example(text="held out"),))


def test_a_dataset_is_read_back(tmp_path: Path) -> None:
    """All splits come back, the empty one too, and the folder says where they come from."""
    write_dataset(tmp_path, about={"file": "rows.jsonl", "seed": 3}, **vars(some_splits()))
    assert read_dataset(tmp_path) == Splits(*(tuple(part) for part in vars(some_splits()).values()))
    record = json.loads((tmp_path / "dataset.json").read_text())
    assert record["about"] == {"file": "rows.jsonl", "seed": 3}
    assert record["rows"] == {"train": 2, "validation": 0, "test": 1}
    assert {path.name for path in tmp_path.iterdir()} == {
        "train.jsonl", "validation.jsonl", "test.jsonl", "dataset.json",
    }  # fmt: skip


def test_the_same_splits_make_the_same_bytes(tmp_path: Path) -> None:
    """The order of an example's fields and of ``about`` does not change the bytes."""
    first, second = tmp_path / "1", tmp_path / "2"
    first.mkdir()
    second.mkdir()
    write_dataset(first, about={"x": 1, "y": 2}, train=[Example(text="t", fields={"a": 1, "b": 2})])
    write_dataset(second, about={"y": 2, "x": 1}, train=iter([Example(text="t", fields={"b": 2, "a": 1})]))
    assert {p.name: p.read_bytes() for p in first.iterdir()} == {p.name: p.read_bytes() for p in second.iterdir()}
    assert (first / "train.jsonl").read_bytes() == b'{"fields":{"a":1,"b":2},"text":"t"}\n'


def test_a_split_is_read_when_it_is_iterated_over(tmp_path: Path) -> None:
    """A split says how many examples it has, and gives them any number of times."""
    write_dataset(tmp_path, about={}, **vars(some_splits()))
    train = open_split(tmp_path, "train")
    assert len(train) == 2
    assert list(train) == list(train) == list(some_splits().train)
    assert Example(text="t") in train
    assert not open_split(tmp_path, "validation")


@given(st.lists(st.none() | st.builds(AnsweredPrompt, text, text, text, cut=st.booleans(), fields=fields), max_size=4))
def test_answers_are_read_back(tmp_path_factory: pytest.TempPathFactory, rows: list[AnsweredPrompt | None]) -> None:
    """Answers come back as they were, in their order; rows without one are passed over."""
    path = tmp_path_factory.mktemp("answers") / "answers.jsonl"
    with path.open("w", encoding="utf-8") as file:
        for row in rows:
            write_row(file, 1.5, 3, 2, row)
    expected = [row for row in rows if row is not None]
    assert list(AnswerFile(path, len(expected))) == expected


def test_a_folder_that_is_no_dataset_is_refused(tmp_path: Path) -> None:
    """A folder without dataset.json, or with a newer one, is an error."""
    with pytest.raises(DataError, match="is not a dataset"):
        read_dataset(tmp_path)
    (tmp_path / "dataset.json").write_text('{"schema": "ftreg.dataset/9"}')
    with pytest.raises(DataError, match="dataset/9"):
        read_dataset(tmp_path)


@pytest.mark.parametrize("line", ["{", "[]", '{"messages": [{"role": "user"}]}', '{"other": 1}'])
def test_a_broken_line_of_a_dataset_is_named(tmp_path: Path, line: str) -> None:
    """The error says which line of which file is not an example."""
    write_dataset(tmp_path, about={}, **vars(some_splits()))
    (tmp_path / "train.jsonl").write_text('{"text": "t"}\n' + line)
    with pytest.raises(DataError) as caught:
        read_dataset(tmp_path)
    assert str(caught.value.where).endswith("train.jsonl:2")


def test_a_missing_split_file_is_named(tmp_path: Path) -> None:
    """A dataset whose test file is missing is an error, not a dataset without a test split."""
    write_dataset(tmp_path, about={}, **vars(some_splits()))
    (tmp_path / "test.jsonl").unlink()
    with pytest.raises(DataError, match=r"test\.jsonl"):
        read_dataset(tmp_path)
