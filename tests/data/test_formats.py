"""Row formats: how rows become examples, and which format is found."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from ftreg.core.errors import DataError, PluginError, UnknownName
from ftreg.core.hookspecs import hookimpl
from ftreg.core.host import PluginHost
from ftreg.core.manifest import Json
from ftreg.core.specs import FormatSpec
from ftreg.core.types import Example
from ftreg.data import load_examples


def load(folder: Path, rows: Sequence[Json], **options: str) -> tuple[list[Example], str]:
    """Load rows through a JSONL file."""
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return load_examples(path, host=PluginHost(only=()), **options)


def turns(example: Example) -> list[tuple[str, str]]:
    """Roles and contents of a chat."""
    return [(turn.role, turn.content) for turn in example.messages]


CHAT = [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}, {"role": "assistant", "content": "a"}]


@pytest.mark.parametrize(
    ("row", "format_name", "expected"),
    [
        ({"prompt": "p", "response": "r"}, "prompt-response", [("user", "p"), ("assistant", "r")]),
        ({"prompt": "p", "completion": "r"}, "prompt-response", [("user", "p"), ("assistant", "r")]),
        (
            {"prompt": "p", "response": "r", "system": "s"},
            "prompt-response",
            [("system", "s"), ("user", "p"), ("assistant", "r")],
        ),
        ({"instruction": "i", "input": "", "output": "o"}, "instruction", [("user", "i"), ("assistant", "o")]),
        ({"instruction": "i", "output": "o"}, "instruction", [("user", "i"), ("assistant", "o")]),
        ({"instruction": "i", "input": "x", "output": "o"}, "instruction", [("user", "i\n\nx"), ("assistant", "o")]),
        ({"messages": CHAT}, "messages", [("system", "s"), ("user", "u"), ("assistant", "a")]),
        (
            {"conversations": [{"from": "human", "value": "u"}, {"from": "gpt", "value": "a"}]},
            "messages",
            [("user", "u"), ("assistant", "a")],
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "text", "text": "u"}]}, CHAT[2]]},
            "messages",
            [("user", "u"), ("assistant", "a")],
        ),
    ],
)
def test_rows_become_chats(tmp_path: Path, row: Json, format_name: str, expected: list[tuple[str, str]]) -> None:
    """Each format is detected by its columns, and converts its columns to the right turns."""
    (example,), found = load(tmp_path, [row])
    assert found == format_name
    assert turns(example) == expected
    assert example.text is None


def test_text_rows_become_plain_text(tmp_path: Path) -> None:
    """Text is kept as it is, spaces at its ends included."""
    (example,), found = load(tmp_path, [{"text": " some text\n"}])
    assert (found, example.text, example.messages) == ("text", " some text\n", ())


def test_other_columns_are_kept(tmp_path: Path) -> None:
    """An example carries its row's other columns, and none that its format uses."""
    (example,), _ = load(tmp_path, [{"prompt": "p", "response": "r", "intent": "x", "score": None}])
    assert example.fields == {"intent": "x", "score": None}


def test_columns_of_no_format_are_named(tmp_path: Path) -> None:
    """The error lists the columns that were found, and the formats that exist."""
    with pytest.raises(DataError, match="'question', 'answer'") as caught:
        load(tmp_path, [{"question": "q", "answer": "a"}])
    for name in ("prompt-response", "instruction", "messages", "text"):
        assert name in str(caught.value.hint)


def test_columns_of_two_formats_must_be_decided(tmp_path: Path) -> None:
    """If two formats fit, the user must name one; a named format is used without detection."""
    row = {"instruction": "i", "output": "o", "text": "t"}
    with pytest.raises(DataError, match="instruction, text"):
        load(tmp_path, [row])
    assert load(tmp_path, [row], format="text")[0][0].text == "t"


def test_detection_goes_by_most_rows(tmp_path: Path) -> None:
    """A first row without the format's columns does not prevent detection; that row is the error."""
    with pytest.raises(DataError, match="'prompt' is missing"):
        load(tmp_path, [{"foo": 1}, *[{"prompt": "p", "response": "r"}] * 3])


def test_an_unknown_format_gets_a_suggestion(tmp_path: Path) -> None:
    """A misspelt format is an error with the nearest known name."""
    with pytest.raises(UnknownName, match="Did you mean messages"):
        load(tmp_path, [{"text": "t"}], format="mesages")


@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        ("hello", "holds text, not a list"),
        ([], "no assistant turn"),
        ([CHAT[1]], "no assistant turn"),
        ([CHAT[2], CHAT[1]], "starts with an assistant turn"),
        (["hello"], "turn 1 is text"),
        ([{"content": "x"}], "role None"),
        ([{"role": "bot", "content": "x"}], "role 'bot'"),
        ([CHAT[1], {"role": "assistant", "content": ""}], "turn 2 (assistant) is empty"),
        ([CHAT[1], {"role": "assistant", "content": None}], "turn 2 (assistant) holds null"),
        ([CHAT[1], {"role": "assistant", "content": "", "tool_calls": [{}]}], "calls tools"),
        ([{"role": "user", "content": [{"type": "image"}]}], "not text"),
    ],
)
def test_malformed_chats_name_the_turn(tmp_path: Path, messages: Json, reason: str) -> None:
    """Errors in a chat name its turn."""
    with pytest.raises(DataError) as caught:
        load(tmp_path, [{"messages": messages}])
    assert reason in caught.value.message


def test_response_and_completion_together_are_refused(tmp_path: Path) -> None:
    """A row with two answers is an error."""
    with pytest.raises(DataError, match="both"):
        load(tmp_path, [{"prompt": "p", "response": "r", "completion": "c"}])


class _Failing:
    """A format with a defect."""

    def matches(self, row: Json) -> bool:
        return "q" in row

    def convert(self, row: Json) -> Example:
        return row["nothing"]


class _Plugin:
    @hookimpl
    def ftreg_formats(self) -> list[FormatSpec]:
        return [FormatSpec(name="failing", summary="fails", impl=f"{__name__}:_Failing", columns=("q",))]


def test_a_defect_of_a_plugins_format_is_named_as_such(tmp_path: Path) -> None:
    """A format of a plugin takes part in detection, and its crash is the plugin's error, not the data's."""
    host = PluginHost(only=())
    host.register(_Plugin())
    path = tmp_path / "q.jsonl"
    path.write_text('{"q": 1}\n')
    with pytest.raises(PluginError, match=r"_Plugin.*_Failing\.convert, on .*q\.jsonl:1, raised KeyError"):
        load_examples(path, host=host)
