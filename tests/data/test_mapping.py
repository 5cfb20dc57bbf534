"""Column mappings: files whose columns have other names than the row format's."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from ftreg.cli.main import main
from ftreg.context import Context
from ftreg.core.errors import DataError, InputError, UnknownName
from ftreg.core.hookspecs import hookimpl
from ftreg.core.host import PluginHost
from ftreg.core.recipe import DataConfig
from ftreg.core.specs import FormatSpec
from ftreg.core.types import Example, Message
from ftreg.data import load_examples, read_data
from ftreg.pipeline.inputs import open_data
from ftreg.registry import Registry
from tests.data.test_formats import turns

COLUMNS = {"prompt": "Question", "response": "Answer"}


class AnyFormat:
    """A plugin whose format does not say which columns it reads."""

    @hookimpl
    def ftreg_formats(self) -> list[FormatSpec]:
        """One format."""
        return [FormatSpec(name="any", summary="Any rows.", impl=f"{__name__}:Anything")]


class Anything:
    """A format that reads the column ``whatever``."""

    def matches(self, row: dict[str, str]) -> bool:
        """Say whether the row has it."""
        return "whatever" in row

    def convert(self, row: dict[str, str]) -> Example:
        """Turn it into a chat."""
        return Example(messages=(Message("user", row["whatever"]), Message("assistant", "yes")))


@pytest.fixture
def host() -> PluginHost:
    """The built-in formats."""
    return PluginHost(only=())


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file with columns of its own, some of which no format reads."""
    path = tmp_path / "faq.csv"
    path.write_text("Question,Answer,topic\nq1,a1,x\nq2,a2,y\n")
    return path


def test_fields_are_read_from_other_columns(path: Path, host: PluginHost) -> None:
    """Mapped columns make the format's fields, so that it is detected too; the others stay as they are."""
    examples, name = load_examples(path, columns=COLUMNS, host=host)
    assert name == "prompt-response"
    assert [turns(example) for example in examples] == [[("user", f"q{n}"), ("assistant", f"a{n}")] for n in (1, 2)]
    assert [example.fields for example in examples] == [{"topic": "x"}, {"topic": "y"}]


def test_two_fields_of_one_column(path: Path, host: PluginHost) -> None:
    """One column can be read as two fields, also those that a format does without."""
    columns = {**COLUMNS, "system": "Question"}
    examples, _ = load_examples(path, columns=columns, host=host)
    assert turns(examples[0]) == [("system", "q1"), ("user", "q1"), ("assistant", "a1")]


def test_a_mapped_field_takes_the_place_of_its_namesake(tmp_path: Path, host: PluginHost) -> None:
    """If the file also has a column of the field's own name, the mapped one is read; two can be swapped."""
    path = tmp_path / "rows.jsonl"
    path.write_text('{"prompt": "a", "response": "b"}\n')
    examples, _ = load_examples(path, columns={"prompt": "response", "response": "prompt"}, host=host)
    assert turns(examples[0]) == [("user", "b"), ("assistant", "a")]


def test_columns_that_the_file_lacks(path: Path, host: PluginHost) -> None:
    """A column that no row has is an error with the nearest ones."""
    with pytest.raises(UnknownName, match="no column named 'Questoin'") as caught:
        load_examples(path, columns={**COLUMNS, "prompt": "Questoin"}, host=host)
    assert caught.value.where == "data.columns.prompt"
    assert "Did you mean Question?" in str(caught.value)


@pytest.mark.parametrize(("format", "expected"), [("auto", "messages (messages"), ("text", "text (text)")])
def test_fields_that_no_format_reads(path: Path, host: PluginHost, format: str, expected: str) -> None:  # noqa: A002
    """A field that the format, or any format, does not read is an error that lists those that are read."""
    with pytest.raises(UnknownName, match="no field named 'zzz'") as caught:
        load_examples(path, format=format, columns={"zzz": "Question"}, host=host)
    assert expected in str(caught.value)
    with pytest.raises(UnknownName, match="no format named"):
        load_examples(path, format="nope", columns=COLUMNS, host=host)


def test_a_format_that_does_not_say_what_it_reads(path: Path) -> None:
    """Fields of a plugin's format that declares no columns are not checked."""
    host = PluginHost(only=())
    host.register(AnyFormat())
    examples, name = load_examples(path, columns={"whatever": "Question"}, host=host)
    assert (name, turns(examples[0])[0]) == ("any", ("user", "q1"))


def test_bad_rows_are_named_with_their_own_columns(tmp_path: Path, host: PluginHost) -> None:
    """Errors of rows name the file's own column; unreadable rows are reported as without a mapping."""
    path = tmp_path / "rows.jsonl"
    path.write_text('{"Question": "q", "Answer": "a"}\n{"Question": "q"}\n{\n')
    bad = read_data(path, columns=COLUMNS, host=host).bad
    assert [row.row for row in bad] == [2, 3]
    assert bad[0].message == "column 'response' is missing (response is read from 'Answer')"
    assert "is not JSON" in bad[1].message
    with pytest.raises(DataError, match="Answer"):
        load_examples(path, columns=COLUMNS, host=host)


def test_the_command_line_maps_columns(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """``--column`` and ``--set columns.FIELD`` do the same; anything else than FIELD=COLUMN is an error."""
    monkeypatch.setenv("FTREG_HOME", str(tmp_path / "home"))

    def run(*arguments: str) -> int:
        with pytest.raises(SystemExit) as caught:
            main(["data", *arguments])
        return int(caught.value.code or 0)

    flags = ["--column", "prompt=Question", "--column", "response=Answer"]
    settings = ["--set", "columns.prompt=Question", "--set", "columns.response=Answer"]
    for options in (flags, settings):
        assert run("check", str(path), "--json", *options) == 0
        assert json.loads(capsys.readouterr().out)["format"] == "prompt-response"
        assert run("stats", str(path), "--json", *options) == 0
        assert json.loads(capsys.readouterr().out)["rows"] == 2
    for wrong in (["--column", "prompt"], ["--column", "=x"], [*flags, "--column", "prompt=Answer"]):
        assert run("check", str(path), *wrong) == 2
        assert "--column" in capsys.readouterr().err


def test_training_maps_columns(
    path: Path, tmp_path: Path, model_folder: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """``ftreg train --column`` reads the file as ``ftreg data`` does."""
    what = ["--base", str(model_folder()), "--data", str(path), "--method", "lora", "--name", "bot"]
    flags = ["--column", "prompt=Question", "--column", "response=Answer", "--set", "data.validation=0"]
    with pytest.raises(SystemExit) as caught:
        main(["--home", str(tmp_path / "home"), "train", *what, *flags, "--dry-run", "--json"])
    assert caught.value.code == 0
    assert json.loads(capsys.readouterr().out)["data"]["train"] == 2


def test_the_mapping_is_part_of_the_datasets_identity(path: Path, tmp_path: Path, host: PluginHost) -> None:
    """Another mapping of the same file is another dataset; a registered dataset cannot be mapped or split again."""
    swapped = {"prompt": "Answer", "response": "Question"}
    digests = []
    with Registry(tmp_path / "home", host=host) as registry:
        context = Context(registry)
        for columns in (COLUMNS, swapped, COLUMNS):
            with ExitStack() as stack:
                config = DataConfig(path=str(path), validation=0.0, columns=columns)
                dataset, _ = open_data(context, stack, config)
                digests.append(dataset.digest)
                assert dataset.manifest.producer.config["columns"] == columns
                dataset.publish(context)
        assert digests[0] == digests[2] != digests[1]
        with ExitStack() as stack, pytest.raises(InputError, match="registered dataset"):
            open_data(context, stack, DataConfig(path="faq", columns=COLUMNS))
        with ExitStack() as stack, pytest.raises(InputError, match=r"data\.validation: faq is a registered dataset"):
            open_data(context, stack, DataConfig(path="faq", validation=0.1, group_by=None))
