"""``ftreg data``: what its commands print, as JSON and as text, and their exit codes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ftreg.cli.main import main
from ftreg.core.manifest import Producer
from ftreg.core.types import CHECKPOINT
from ftreg.registry import Draft, Registry
from tests.data.test_encode import CHATML

ROWS = [{"prompt": f"question {i}?", "response": f"answer {i}", "topic": f"t{i % 4}"} for i in range(40)]


@pytest.fixture
def ftreg(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[int, str, str]]:
    """Run ``ftreg data`` in an empty folder; returns the exit code, standard output and standard error."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FTREG_HOME", str(tmp_path / "home"))

    def run(*arguments: str | Path) -> tuple[int, str, str]:
        try:
            main(["data", *map(str, arguments)])
            code = 0
        except SystemExit as error:
            code = int(error.code or 0)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def write(rows: list[Any], name: str = "rows.jsonl") -> Path:
    """Write rows, or lines as they are, into the current folder."""
    path = Path(name)
    path.write_text(
        "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows), encoding="utf-8"
    )
    return path


def kinds(output: str) -> dict[str, list[int]]:
    """The rows of each kind of finding."""
    return {finding["kind"]: finding["rows"] for finding in json.loads(output)["warnings"]}


def test_check_of_good_rows_says_so(ftreg: Callable[..., tuple[int, str, str]]) -> None:
    """A file without bad rows gets one line with count and format, and exit code 0; no registry is created."""
    assert ftreg("check", write(ROWS)) == (0, "rows.jsonl: 40 rows, format prompt-response, all can be used\n", "")
    assert not Path("home").exists()


def test_check_names_every_bad_row(ftreg: Callable[..., tuple[int, str, str]]) -> None:
    """Bad rows are listed with line and reason on standard output, counted on standard error; the exit code is 2."""
    rows = [ROWS[0], "{", ROWS[1], {"prompt": "x"}, {"prompt": "x", "response": 1}, *ROWS[2:]]
    code, out, err = ftreg("check", write(rows))
    assert code == 2
    assert [line.split(":")[:2] for line in out.splitlines()] == [["rows.jsonl", line] for line in ("2", "4", "5")]
    assert "3 of 43 rows cannot be used" in err
    code, out, _ = ftreg("check", "rows.jsonl", "--json")
    facts = json.loads(out)
    assert code == 2
    assert (facts["rows"], facts["format"]) == (43, "prompt-response")
    assert [bad["row"] for bad in facts["bad"]] == [2, 4, 5]
    assert facts["bad"][1]["message"] == "column 'response' is missing"


def test_check_finds_repeated_rows_and_leaked_prompts(ftreg: Callable[..., tuple[int, str, str]]) -> None:
    """Repeated rows are found whatever their other columns, and so are held-out prompts that are in train too."""
    rows = [*ROWS, {**ROWS[3], "topic": "other"}]
    code, out, _ = ftreg("check", write(rows), "--json", "--set", "validation=0")
    assert (code, kinds(out)) == (0, {"duplicate": [41]})
    split = [{**row, "part": "test" if i == 39 else "train"} for i, row in enumerate(ROWS)]
    split[39]["prompt"] = split[7]["prompt"]
    write(split)
    _, out, _ = ftreg("check", "rows.jsonl", "--json", "--set", "split_by=part")
    assert kinds(out) == {"leakage": [40]}
    _, out, _ = ftreg("check", "rows.jsonl", "--set", "split_by=part")
    assert "warning: 1 row is held out, with a prompt that is also in the train split (row 40)" in out


def test_check_with_a_base_looks_at_the_tokens(
    ftreg: Callable[..., tuple[int, str, str]], model_folder: Callable[..., Path]
) -> None:
    """Truncated and lost answers, special tokens in the text, and rows that the template refuses are found."""
    rows = [
        *ROWS[:3],
        {"prompt": "q", "response": "a long answer, " * 9},
        {"prompt": "a long question, " * 9, "response": "a"},
        {"prompt": "how do I write <|end|>?", "response": "so"},
    ]
    code, out, _ = ftreg("check", write(rows), "--base", model_folder(), "--max-length", "50", "--json")
    assert (code, kinds(out)) == (0, {"cut": [4], "nothing-labelled": [5], "control-tokens": [6]})

    Path("picky.jinja").write_text("{% if messages[0].content == 'q' %}{{ raise_exception('no') }}{% endif %}" + CHATML)
    code, out, err = ftreg("check", "rows.jsonl", "--base", model_folder(), "--set", "template=picky.jinja")
    assert code == 2
    assert "rows.jsonl:4: the chat template refuses the chat: no" in out
    assert "1 of 6 rows" in err


def test_check_tells_of_unknown_tokens_and_a_shared_pad_token(tmp_path: Path) -> None:
    """Padding with EOS, letters that the tokenizer does not know, and a template with today's date are reported."""
    from ftreg.core.host import PluginHost
    from ftreg.data import Encoder, read_data
    from ftreg.data.check import check_tokens
    from tests.data.test_encode import metaspace_tokenizer

    tokenizer = metaspace_tokenizer()
    tokenizer.pad_token = tokenizer.eos_token
    tokenizer.chat_template = "{{ strftime_now('%Y') }}" + CHATML
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": "Where"}\n{"text": "äöü"}\n', encoding="utf-8")
    data = read_data(path, host=PluginHost(only=()))
    findings, bad = check_tokens(data, Encoder(tokenizer, max_length=100))
    assert {finding.kind: finding.rows for finding in findings} == {
        "pad-is-eos": (),
        "dated-template": (),
        "unknown-tokens": (2,),
    }
    assert not bad


def test_stats_count_rows_lengths_and_splits(
    ftreg: Callable[..., tuple[int, str, str]], model_folder: Callable[..., Path]
) -> None:
    """The figures add up, in JSON and in the tables, and with a base lengths in tokens are included."""
    path = write(ROWS)
    code, out, _ = ftreg("stats", path, "--base", model_folder(), "--set", "stratify_by=topic", "--json")
    facts = json.loads(out)
    assert code == 0
    assert (facts["rows"], facts["train"], facts["validation"], facts["test"]) == (40, 36, 4, 0)
    characters = facts["lengths"]["characters"]
    assert characters["total"] == sum(len(row["prompt"]) + len(row["response"]) for row in ROWS)
    assert sum(count for _, _, count in characters["histogram"]) == 40
    tokens, labelled = facts["lengths"]["tokens"], facts["lengths"]["labelled tokens"]
    assert 0 < labelled["total"] < tokens["total"]
    assert tokens["minimum"] <= tokens["median"] <= tokens["p90"] <= tokens["p99"] <= tokens["maximum"]
    code, out, _ = ftreg("stats", path)
    assert code == 0
    assert "prompt-response" in out
    assert "#" in out


def test_preview_marks_what_is_labelled(
    ftreg: Callable[..., tuple[int, str, str]], model_folder: Callable[..., Path]
) -> None:
    """The labelled line holds the answer and its end, the masked one the question; JSON has each token."""
    path = write([{"prompt": "one\ntwo", "response": "[bold]yes"}, *ROWS])
    code, out, _ = ftreg("preview", path, "--base", model_folder(), "--rows", "1")
    _, masked, labelled = out.splitlines()
    assert code == 0
    assert masked.split("  ")[1] == "masked"
    assert masked.replace("|", "").endswith(r"<user>one\ntwo<end><assistant>")
    assert labelled.replace("|", "").endswith("labelled  [bold]yes<end>")
    _, out, _ = ftreg("preview", path, "--base", model_folder(), "--json")
    shown = json.loads(out)
    assert [row["row"] for row in shown] == [1, 2, 3]
    assert "".join(token["text"] for token in shown[0]["tokens"] if token["labelled"]) == "[bold]yes<|end|>"


def test_a_base_can_be_a_version(ftreg: Callable[..., tuple[int, str, str]], model_folder: Callable[..., Path]) -> None:
    """A registry reference shows the same as the folder that was registered; an unknown one gets a suggestion."""
    with Registry("home") as registry, registry.staging() as staging:
        registry.copy_in(model_folder(), staging.files, patterns=("*.json", "*.jinja", "*.safetensors"))
        producer = Producer("import", "folder", "core", "ftreg", "")
        registry.publish("tiny", Draft(folder=staging.files, kind=CHECKPOINT, producer=producer))
    path = write(ROWS)
    assert ftreg("preview", path, "--base", "tiny:1") == ftreg("preview", path, "--base", model_folder())
    code, _, err = ftreg("preview", path, "--base", "tiyn")
    assert code == 2
    assert "Did you mean tiny" in err


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("check", "none.jsonl"), "no such data file"),
        (("check", "rows.jsonl", "--format", "promptresponse"), "Did you mean prompt-response"),
        (("check", "rows.jsonl", "--set", "group_by=topc"), "Did you mean topic"),
        (("check", "rows.jsonl", "--set", "validaton=0.2"), "Did you mean validation"),
        (("check", "rows.jsonl", "--base", "./nowhere"), "no such folder"),
        (("check", "rows.jsonl", "--base", "."), "has no tokenizer"),
        (("preview", "rows.jsonl"), "'--base'"),
        (("stats", "empty.jsonl"), "the file is empty"),
    ],
)
def test_bad_input_is_one_message(
    ftreg: Callable[..., tuple[int, str, str]], arguments: tuple[str, ...], reason: str
) -> None:
    """Bad input exits with 2, the reason on standard error, and nothing on standard output."""
    write(ROWS)
    write([], "empty.jsonl")
    code, out, err = ftreg(*arguments)
    assert (code, out) == (2, "")
    assert reason in err
    assert "Traceback" not in err


def test_stdlib_writes_text_rows(ftreg: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch) -> None:
    """The file has format text and the same bytes each time, and its folder is created."""
    from ftreg.core.types import Example

    texts = ["One docstring.\nWith “quotes”.", "Another."]
    monkeypatch.setattr("ftreg.data.stdlib_docstrings", lambda: [Example(text=text) for text in texts])
    code, out, err = ftreg("stdlib", "new/text.jsonl")
    assert (code, out) == (0, "")
    assert "2 texts written to new/text.jsonl" in err
    rows = [json.loads(line) for line in Path("new/text.jsonl").read_text(encoding="utf-8").splitlines()]
    assert rows == [{"text": text} for text in texts]
    assert "format text" in ftreg("check", "new/text.jsonl")[1]
