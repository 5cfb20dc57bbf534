"""Markdown from docstrings and signatures."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Sequence
from textwrap import dedent
from typing import Any

WIDTH = 100
_SECTION = re.compile(r"\n\n(Args|Attributes|Returns|Raises):\n")
_ITEM = re.compile(r"^ {4}(\*{0,2}\w+): (.*(?:\n {5,}.*)*)", re.MULTILINE)
_EXAMPLE = re.compile(r"::\n\n((?:(?: {4}.*)?\n)+)")


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table; pipes in its cells are escaped."""
    lines = [columns, ["---"] * len(columns), *([cell.replace("|", r"\|") for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def prose(documented: Any) -> str:
    """Return what the docstring of an object says before its sections, as Markdown."""
    return _markdown(_SECTION.split(inspect.getdoc(documented) or "")[0])


def items(documented: Any, section: str) -> dict[str, str]:
    """Return what a section of an object's docstring, such as ``Args``, says of each name."""
    parts = _SECTION.split(inspect.getdoc(documented) or "")
    texts = [text for name, text in zip(parts[1::2], parts[2::2], strict=True) if name == section]
    found = (_ITEM.findall(text.split("\n\n")[0]) for text in texts)
    return {name: _line(about) for pairs in found for name, about in pairs}


def returns(documented: Any) -> str:
    """Return what an object's docstring says under ``Returns``."""
    found = re.search(r"\n\nReturns:\n((?: {4}.*\n?)+)", inspect.getdoc(documented) or "")
    return _line(found[1]) if found else ""


def attributes(record: type) -> dict[str, str]:
    """Return what the docstrings of a class and of those it inherits from say of each attribute."""
    return {name: text for cls in reversed(record.__mro__) for name, text in items(cls, "Attributes").items()}


def signature(function: Callable[..., Any], name: str | None = None) -> str:
    """Return a function's signature with the annotations of the source, one parameter a line if it is long."""
    found = inspect.signature(function)
    name = name or function.__name__
    result = "" if found.return_annotation is inspect.Signature.empty else f" -> {found.return_annotation}"
    written: list[str] = []
    for before, parameter in zip([None, *found.parameters.values()], found.parameters.values(), strict=False):
        if parameter.kind is parameter.KEYWORD_ONLY and (before is None or before.kind < parameter.VAR_POSITIONAL):
            written.append("*")
        written.append(_parameter(parameter))
    line = f"{name}({', '.join(written)}){result}"
    return line if len(line) <= WIDTH else "\n".join([f"{name}(", *(f"    {one}," for one in written), f"){result}"])


def _parameter(parameter: inspect.Parameter) -> str:
    """A parameter as the source writes it: its annotation without quotes, texts in double ones."""
    written = re.sub(r": '([^']*)'", r": \1", str(parameter))
    return re.sub(r"'([^'\"]*)'", r'"\1"', written)


def _line(text: str) -> str:
    return " ".join(text.split()).replace("``", "`")


def _markdown(text: str) -> str:
    """A docstring with single backquotes, and fences around the examples that follow a double colon."""
    fenced = _EXAMPLE.sub(lambda found: f":\n\n```python\n{dedent(found[1]).strip()}\n```\n\n", f"{text}\n")
    return re.sub(r"(?<!`)``(?!`)", "`", fenced).strip()
