"""Hints: what a message tells the user to type exists."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from pkgutil import resolve_name

import click
import pytest

import ftreg
from ftreg.cli.wording import in_commands
from ftreg.core import errors
from tests.cli.walk import commands

SOURCE = Path(ftreg.__file__).parent
ALL = dict(commands())
GLOBAL = {opt for param in ALL["ftreg"].params for opt in param.opts}
FIRST_WORDS = GLOBAL | {path.split()[1] for path in ALL if " " in path}


def texts(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Every string of a module, docstrings included; what an f-string puts in is written as X."""
    inside = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in ast.walk(node)}
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            parts = [str(part.value) if isinstance(part, ast.Constant) else "X" for part in node.values]
            yield node.lineno, "".join(parts)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in inside:
            yield node.lineno, node.value


def commands_in(text: str) -> Iterator[str]:
    """What a text says to type: from ``ftreg`` to the end of the line or of the clause."""
    yield from re.findall(r"(?<![\w./-])ftreg ((?:--?)?[a-z][^\n`;,)]*)", text)


def faults(line: str) -> list[str]:
    """The commands and options of ``line`` (without ``ftreg``) that do not exist; prose after it is not looked at."""
    words = line.split()
    path, command = "ftreg", ALL["ftreg"]
    while words and isinstance(command, click.Group) and not words[0].startswith("-"):
        path = f"{path} {words.pop(0).strip('.:')}"
        if path not in ALL:
            return [path]
        command = ALL[path]
    known = GLOBAL | {"--help", "-h"} | {opt for param in command.params for opt in param.opts}
    options = [word.rstrip(".:").partition("=")[0] for word in words if re.match(r"--?[a-z]", word)]
    return [f"{path} {option}" for option in options if option not in known]


@pytest.mark.parametrize("path", sorted(SOURCE.rglob("*.py")), ids=lambda path: str(path.relative_to(SOURCE)))
def test_commands_in_messages_exist(path: Path) -> None:
    """Each ``ftreg ...`` in a string has a command that exists, and options of that command."""
    found = []
    for number, text in texts(ast.parse(path.read_text(encoding="utf-8"))):
        for line in commands_in(text):
            if line.split()[0].strip(".:") in FIRST_WORDS:
                found += [f"{path.name}:{number}: {fault}" for fault in faults(line)]
    assert found == []


@pytest.mark.parametrize("path", sorted(SOURCE.rglob("*.py")), ids=lambda path: str(path.relative_to(SOURCE)))
def test_options_in_hints_exist(path: Path) -> None:
    """Each option and each command that a hint names is one of ftreg's."""
    known = {"--help"} | {opt for command in ALL.values() for param in command.params for opt in param.opts}
    tree = ast.parse(path.read_text(encoding="utf-8"))
    hints = [keyword for node in ast.walk(tree) if isinstance(node, ast.Call) for keyword in node.keywords]
    for keyword in hints:
        if keyword.arg in ("hint", "message"):
            for number, text in texts(keyword.value):
                unknown = set(re.findall(r"(?<!\w)--[a-z][a-z_-]*", text)) - known
                unknown |= set(re.findall(r"(?:^|[:(`] ?)ftreg ([a-z-]+)", text)) - FIRST_WORDS
                assert not unknown, f"{path.name}:{number}"


def messages(path: Path) -> Iterator[tuple[int, str]]:
    """What a module says to its caller: the strings of its errors, and of the remarks of long work."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func).rsplit(".", 1)[-1]
            if called in ERRORS or called == "say":
                yield from texts(node)
        elif isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) in ("hint", "_REBUILD", "merge"):
            yield from texts(node)


VALUE = r"(?<=[(, =])X(?=[,)])"  # an argument that an f-string puts in as a literal
ERRORS = {name for name, found in vars(errors).items() if isinstance(found, type) and issubclass(found, Exception)}
BELOW = sorted(path for path in SOURCE.rglob("*.py") if "cli" not in path.relative_to(SOURCE).parts)


@pytest.mark.parametrize("path", BELOW, ids=lambda path: str(path.relative_to(SOURCE)))
def test_below_the_command_line_messages_speak_of_python(path: Path) -> None:
    """No message of the API names a command or an option: those who call it from Python have neither."""
    for number, text in messages(path):
        typed = [line for line in commands_in(text) if line.split()[0].strip(".:") in FIRST_WORDS]
        assert not typed, f"{path.name}:{number}: {text}"
        assert not re.search(r"(?<!\w)--[a-z]", text), f"{path.name}:{number}: {text}"


@pytest.mark.parametrize("path", BELOW, ids=lambda path: str(path.relative_to(SOURCE)))
def test_python_in_messages_is_also_a_command(path: Path) -> None:
    """Each call in a message exists, and becomes a command that exists."""
    for number, text in messages(path):
        for code in re.findall(r"`((?:ftreg|registry|Registry)\.[\w.]+(?:\(.*?\))?)`", text):
            if code.startswith("registry.staging"):  # for plugins' authors
                continue
            name = code.partition("(")[0].replace("registry.host.", "ftreg.PluginHost.")
            assert resolve_name(re.sub("^[rR]egistry", "ftreg.Registry", name)) is not None
            said = in_commands("`" + re.sub(VALUE, repr("X"), code) + "`", {})
            assert list(commands_in(said)), f"{path.name}:{number}: {said}"
            assert [fault for line in commands_in(said) for fault in faults(line)] == []


def test_faults_are_found() -> None:
    """A command or an option that does not exist is found, one that does is not."""
    assert faults("verify --full checks") == ["ftreg verify --full"]
    assert faults("models lst") == ["ftreg models lst"]
    assert faults("models log X --at DATE") == []
    assert faults("gc --dry-run says what can be freed") == []
