"""Messages of the API in the command line's words: options and commands in the place of arguments and functions."""

from __future__ import annotations

from pathlib import Path

import click
import pytest
from rich.console import Console

from ftreg.cli.command import Command
from ftreg.cli.progress import ConsoleProgress
from ftreg.core.errors import InputError


def told(error: InputError, *typed: str) -> str:
    """What a command with a few parameters says if it fails with ``error``."""

    @click.command(cls=Command)
    @click.argument("ref", required=False)
    @click.argument("recipe", required=False)
    @click.option("--split")
    @click.option("--with", "others")
    @click.option("--merge", is_flag=True)
    def command(**_: object) -> None:
        raise error

    with pytest.raises(InputError) as caught:
        command.main(list(typed), standalone_mode=False)
    return str(caught.value)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (InputError("is wrong", where="split"), "--split: is wrong"),
        (InputError("is wrong", where="split: last"), "--split last: is wrong"),
        (InputError("is wrong", where="others"), "--with: is wrong"),
        (InputError("is wrong", where="ref"), "REF: is wrong"),
        (InputError("is wrong", where="rows.jsonl:3"), "rows.jsonl:3: is wrong"),
        (InputError("is wrong", where="train.epochs"), "train.epochs: is wrong"),
        (InputError("is wrong", hint="Give `split`, or `merge=True`."), "is wrong\n  Give --split, or --merge."),
        (InputError("give `others`"), "give --with"),
        (InputError("is wrong", hint="See `split.x` and `nothing`."), "is wrong\n  See `split.x` and `nothing`."),
        (InputError("map it with `others={'a': 0.5}`"), "map it with --with a=0.5"),
        (InputError("`registry.gc(dry_run=True)` tells"), "ftreg gc --dry-run tells"),
        (InputError("run `ftreg.merge('bot:1')`"), "run ftreg merge bot:1"),
        (InputError("`ftreg.api.training.init()` fails"), "ftreg init fails"),
        (InputError("`ftreg.api.data.check('a b.csv')`"), "ftreg data check 'a b.csv'"),
        (InputError("see `registry.host.plugins`"), "see ftreg plugins list"),
        (InputError("use `registry.staging()`"), "use `registry.staging()`"),
        (InputError("call `ftreg.merge(ref)`, `split=x[`"), "call `ftreg.merge(ref)`, `split=x[`"),
    ],
)
def test_arguments_become_options(error: InputError, words: str) -> None:
    """Where, message and hint name what can be typed; whatever is not a parameter stays as it is."""
    assert told(error) == words


def test_what_a_recipe_says_is_not_an_option() -> None:
    """A recipe has keys that are called like options: those become options only if they were typed."""
    assert told(InputError("is wrong", where="split"), "base", "recipe.yaml") == "split: is wrong"
    typed = told(InputError("is wrong", where="split"), "base", "recipe.yaml", "--split", "x")
    assert typed == "--split: is wrong"


def test_progress_speaks_of_commands(capsys: pytest.CaptureFixture[str]) -> None:
    """Remarks of long work are translated like errors, with the options of the command that runs."""

    @click.command(cls=Command)
    @click.option("--resume", is_flag=True)
    def command(**_: object) -> None:
        ConsoleProgress(Console(stderr=True)).say("add `resume=True`, see `registry.list()`")

    command.main([], standalone_mode=False)
    assert capsys.readouterr().err.strip() == "add --resume, see ftreg models list"


def test_a_recipes_missing_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Through the real command line: the data of a recipe is not said to come from --data."""
    from ftreg.cli.main import main

    (tmp_path / "recipe.yaml").write_text("base: base\ndata: nope.jsonl\n")
    with pytest.raises(SystemExit) as end:
        main(["--home", str(tmp_path / "home"), "train", str(tmp_path / "recipe.yaml")])
    message = capsys.readouterr().err
    assert end.value.code == 2
    assert "--" not in message
