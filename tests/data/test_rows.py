"""Reading data files: good ones of every kind, and the errors for bad ones."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from ftreg.core.errors import DataError, MissingExtra
from ftreg.core.host import PluginHost
from ftreg.data import load_examples, read_data

GOOD = b'{"prompt": "a", "response": "b"}\n'


@pytest.fixture(scope="module")
def host() -> PluginHost:
    """The built-in plugins."""
    return PluginHost(only=())


def write(folder: Path, name: str, content: bytes) -> Path:
    """Write a file into a folder."""
    path = folder / name
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", GOOD + b"\n" + GOOD),
        ("a.ndjson", b"\xef\xbb\xbf" + GOOD + GOOD.rstrip()),
        ("a.jsonl", GOOD.replace(b"\n", b"\r\n") * 2),
        ("a.json", b" [" + GOOD + b"," + GOOD + b"]"),
        ("lines.json", GOOD * 2),
        ("a.csv", b"\xef\xbb\xbfprompt,response\na,b\n\na,b\n"),
        ("quoted.csv", b'prompt,response\r\n"a","b"\r\n"a",b\r\n'),
        ("a.tsv", b"prompt\tresponse\na\tb\na\tb"),
    ],
)
def test_every_kind_of_file_gives_the_same_rows(tmp_path: Path, host: PluginHost, name: str, content: bytes) -> None:
    """Byte-order marks, blank lines, line ends and quotes make no difference."""
    examples, format_name = load_examples(write(tmp_path, name, content), host=host)
    assert format_name == "prompt-response"
    assert [[(turn.role, turn.content) for turn in example.messages] for example in examples] == [
        [("user", "a"), ("assistant", "b")]
    ] * 2


def test_unicode_line_separators_do_not_part_lines(tmp_path: Path, host: PluginHost) -> None:
    """U+2028 inside a string is text, not the end of a JSON line."""
    line = json.dumps({"text": "one\u2028two\u0085three"}, ensure_ascii=False).encode()
    examples, _ = load_examples(write(tmp_path, "a.jsonl", line), host=host)
    assert [example.text for example in examples] == ["one\u2028two\u0085three"]


def test_parquet_rows_become_plain_values(tmp_path: Path, host: PluginHost) -> None:
    """NaN becomes null, and dates become text, so that a row can be written as JSON."""
    pa = pytest.importorskip("pyarrow")
    import datetime

    import pyarrow.parquet as pq

    table = pa.table(
        {
            "text": ["one", "two"],
            "score": [1.5, float("nan")],
            "day": [datetime.date(2026, 1, 2), None],
            "tags": [["x"], []],
        }
    )
    pq.write_table(table, tmp_path / "a.parquet")
    examples, _ = load_examples(tmp_path / "a.parquet", host=host)
    assert [dict(example.fields) for example in examples] == [
        {"score": 1.5, "day": "2026-01-02", "tags": ["x"]},
        {"score": None, "day": None, "tags": []},
    ]


def test_parquet_without_pyarrow_says_which_extra_brings_it(
    tmp_path: Path, host: PluginHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error names the extra to install."""
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingExtra, match=r"ftreg\[parquet\]"):
        load_examples(write(tmp_path, "a.parquet", b"PAR1"), host=host)


BAD = {
    "broken line": ("a.jsonl", GOOD + b'{"prompt": \n', "a.jsonl:2", "not JSON"),
    "single quotes": ("a.jsonl", GOOD + b"{'prompt': 1}", "a.jsonl:2", "column 2"),
    "NaN": ("a.jsonl", GOOD + b'{"prompt": "a", "response": NaN}', "a.jsonl:2", "NaN"),
    "infinity": ("a.json", b'[{"prompt": Infinity}]', "a.json", "Infinity"),
    "huge number": ("a.jsonl", GOOD + b'{"prompt": ' + b"9" * 5000 + b"}", "a.jsonl:2", "JSON"),
    "deep nesting": ("a.jsonl", GOOD + b"[" * 200_000, "a.jsonl:2", "JSON"),
    "half a surrogate pair": ("a.jsonl", GOOD + b'{"prompt": "\\ud800", "response": "b"}', "a.jsonl:2", "surrogate"),
    "a list as a row": ("a.jsonl", GOOD + b"[1]", "a.jsonl:2", "a list"),
    "text as a row": ("a.json", b"[" + GOOD + b', "x"]', "a.json, row 2", "text"),
    "not UTF-8": ("a.jsonl", GOOD + b'{"prompt": "\xe9"}', "a.jsonl:2", "0xe9"),
    "CSV not UTF-8": ("a.csv", b"prompt,response\na,b\n\xe9,b\n", "a.csv:3", "UTF-8"),
    "UTF-16": ("a.jsonl", GOOD.decode().encode("utf-16"), "a.jsonl", "UTF-16"),
    "UTF-16 CSV": ("a.csv", "prompt,response\na,b".encode("utf-16"), "a.csv", "UTF-16"),
    "empty file": ("a.jsonl", b"", "a.jsonl", "empty"),
    "blank file": ("a.jsonl", b"\n\n", "a.jsonl", "no rows"),
    "empty list": ("a.json", b"[]", "a.json", "no rows"),
    "broken list": ("a.json", b"[" + GOOD, "a.json", "not JSON"),
    "header only": ("a.csv", b"prompt,response\n", "a.csv", "no rows"),
    "ragged row": ("a.csv", b'prompt,response\n"a\n",b\nc,d,e\n', "a.csv:4", "3 cells"),
    "open quote": ("a.csv", b'prompt,response\n"a,b\nc,d\n', "a.csv:2", "not CSV"),
    "column twice": ("a.csv", b"prompt,prompt\na,b\n", "a.csv", "twice"),
    "nameless column": ("a.csv", b"prompt,\na,b\n", "a.csv", "column 2"),
    "semicolons": ("a.csv", b"prompt;response\na;b\n", "a.csv", "commas"),
    "truncated Parquet": ("a.parquet", b"PAR1\x15\x04", "a.parquet", "Parquet"),
    "unknown suffix": ("a.xlsx", b"x", "a.xlsx", "not a known kind"),
    "missing column": ("a.jsonl", GOOD + b'{"prompt": "a"}', "a.jsonl:2", "'response' is missing"),
    "empty response": ("a.jsonl", GOOD + b'{"prompt": "a", "response": " "}', "a.jsonl:2", "'response' is empty"),
    "null response": ("a.jsonl", GOOD + b'{"prompt": "a", "response": null}', "a.jsonl:2", "'response' is empty"),
    "wrong type": ("a.jsonl", GOOD + b'{"prompt": 3, "response": "b"}', "a.jsonl:2", "'prompt' holds the number 3"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_files_are_refused_with_the_place_and_the_reason(tmp_path: Path, host: PluginHost, case: str) -> None:
    """The error names the file, the row if it concerns one, and what is wrong."""
    name, content, where, reason = BAD[case]
    with pytest.raises(DataError) as caught:
        load_examples(write(tmp_path, name, content), host=host)
    assert caught.value.exit_code == 2
    assert str(caught.value.where).endswith(where)
    assert reason in caught.value.message


def test_folders_and_missing_files_are_refused(tmp_path: Path, host: PluginHost) -> None:
    """A folder, or a path at which nothing is, is an error."""
    with pytest.raises(DataError, match="is a folder"):
        load_examples(tmp_path, host=host)
    with pytest.raises(DataError, match="no such data file"):
        load_examples(tmp_path / "none.jsonl", host=host)


def test_reading_goes_on_after_bad_rows(tmp_path: Path, host: PluginHost) -> None:
    """All bad rows are kept with their line, and all good ones with theirs."""
    content = GOOD + b"{\n" + GOOD + b'\n{"prompt": "a"}\n' + GOOD
    data = read_data(write(tmp_path, "a.jsonl", content), host=host)
    assert list(data.rows) == [1, 3, 6]
    assert [row.row for row in data.bad] == [2, 5]


def test_the_error_of_the_first_bad_row_counts_the_others(tmp_path: Path, host: PluginHost) -> None:
    """Many bad rows give one message, with the command that lists them all."""
    with pytest.raises(DataError, match=r"and 2 more bad rows") as caught:
        load_examples(write(tmp_path, "a.jsonl", GOOD + b"1\n2\n3\n" + GOOD * 4), host=host)
    assert "ftreg.api.data.check(" in str(caught.value.hint)
