"""Errors of ftreg: their text, their exit codes, and what they propose."""

from __future__ import annotations

import inspect

import pytest

from ftreg.core import errors
from ftreg.core.errors import FtregError, InputError, MissingExtra, UnknownName

ALL = [cls for _, cls in inspect.getmembers(errors, inspect.isclass) if issubclass(cls, FtregError)]


def test_the_text_of_an_error() -> None:
    """The text of an error is where, what, and on a line of its own what to do."""
    assert (
        str(FtregError("is empty", where="a.jsonl:3", hint="Delete the row."))
        == "a.jsonl:3: is empty\n  Delete the row."
    )
    assert str(FtregError("failed")) == "failed"


@pytest.mark.parametrize("cls", ALL)
def test_exit_codes(cls: type[FtregError]) -> None:
    """Bad input has exit code 2, failed work has 1."""
    assert cls.exit_code == (2 if issubclass(cls, InputError) else 1)


@pytest.mark.parametrize("cls", ALL)
def test_the_tree_in_the_docstring(cls: type[FtregError]) -> None:
    """The module's docstring shows every error."""
    assert cls.__name__ in (errors.__doc__ or "")


@pytest.mark.parametrize(
    ("name", "known", "hint"),
    [
        ("lorra", ["lora", "full"], "Did you mean lora?"),
        ("zzz", ["lora", "full"], "Known: full, lora."),
        ("zzz", [], None),
    ],
)
def test_unknown_names(name: str, known: list[str], hint: str | None) -> None:
    """The error proposes the nearest names, or lists the known ones if none is near."""
    error = UnknownName("method", name, known)
    assert error.message == f"no method named {name!r}"
    assert error.hint == hint


def test_a_missing_extra_says_what_to_install() -> None:
    """The hint is a command that can be pasted into a shell."""
    assert "pip install 'ftreg[train]'" in str(MissingExtra("method qlora", "bitsandbytes", "ftreg[train]"))
