"""Errors say what is wrong, where, and what to do."""

from __future__ import annotations

import inspect

import pytest

from ftreg.core import errors
from ftreg.core.errors import FtregError, InputError, MissingExtra, UnknownName

ALL = [cls for _, cls in inspect.getmembers(errors, inspect.isclass) if issubclass(cls, FtregError)]


def test_the_text_of_an_error() -> None:
    """Where, what, and on its own line what to do."""
    assert (
        str(FtregError("is empty", where="a.jsonl:3", hint="Delete the row."))
        == "a.jsonl:3: is empty\n  Delete the row."
    )
    assert str(FtregError("failed")) == "failed"


@pytest.mark.parametrize("cls", ALL)
def test_exit_codes(cls: type[FtregError]) -> None:
    """Wrong input exits with 2, failed work with 1."""
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
    """The nearest names are proposed, else the known ones listed."""
    error = UnknownName("method", name, known)
    assert error.message == f"no method is called {name!r}"
    assert error.hint == hint


def test_a_missing_extra_says_what_to_install() -> None:
    """The message can be pasted into a shell."""
    assert "pip install 'ftreg[train]'" in str(MissingExtra("method qlora", "bitsandbytes", "ftreg[train]"))
