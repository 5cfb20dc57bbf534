"""Help: every command shows examples that work, and a group alone shows its commands."""

from __future__ import annotations

import click
import pytest

from ftreg.cli.command import Command, Group
from ftreg.cli.main import main
from tests.cli.walk import commands, ftreg_lines, parse

ALL = dict(commands())
LEAVES = [path for path, command in ALL.items() if not isinstance(command, click.Group)]
GROUPS = [path for path, command in ALL.items() if isinstance(command, click.Group)]


def run(*arguments: str) -> int:
    """The exit code of ``ftreg`` with ``arguments``."""
    with pytest.raises(SystemExit) as end:
        main(list(arguments))
    return int(end.value.code or 0)


@pytest.mark.parametrize("path", LEAVES)
def test_examples_can_be_typed(path: str) -> None:
    """Each command has one to three examples, one of them of itself, and all of them parse."""
    command = ALL[path]
    assert isinstance(command, Command)
    lines = [line for example in command.examples for line in ftreg_lines(example)]
    assert 1 <= len(lines) <= 3
    assert any(line.startswith(path) for line in lines)
    for line in lines:
        parse(line)


@pytest.mark.parametrize("path", LEAVES)
def test_help_shows_examples_and_settings(path: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The help ends with the examples, and a command with --set says where its settings are listed."""
    command = ALL[path]
    assert isinstance(command, Command)
    assert run(*path.split()[1:], "--help") == 0
    shown = capsys.readouterr().out.rstrip()
    assert shown.endswith(command.examples[-1])
    has_set = any("--set" in param.opts for param in command.params)
    assert not has_set or "Settings are listed by:\n  ftreg settings" in shown
    for line in command.settings:
        parse(line.partition("   ")[0])


@pytest.mark.parametrize("path", GROUPS)
def test_a_group_alone_shows_its_help(path: str, capsys: pytest.CaptureFixture[str]) -> None:
    """It lists its commands with whole sentences, and the exit code is 0."""
    assert isinstance(ALL[path], Group)
    assert run(*path.split()[1:]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith(f"Usage: {path}")
    assert "Commands:" in shown
    assert "..." not in shown.split("Commands:")[1]


def test_an_unknown_command_gets_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    """In a group as at the top."""
    assert run("models", "lst") == 2
    assert "Did you mean list?" in capsys.readouterr().err


def test_json_is_offered_wherever_facts_are_printed() -> None:
    """Every command has --json, except those that start a server, run other commands, or print a script."""
    without = {path for path in LEAVES if not any("--json" in param.opts for param in ALL[path].params)}
    assert without == {"ftreg serve", "ftreg quickstart", "ftreg completion"}
