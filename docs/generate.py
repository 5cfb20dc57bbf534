"""Writes docs/hooks.md from the docstrings and signatures of the code: ``python docs/generate.py [--check]``."""

from __future__ import annotations

import dataclasses
import inspect
import re
import sys
from collections.abc import Callable
from pathlib import Path
from textwrap import dedent
from typing import Any

from ftreg.core import hookspecs, specs, types

PAGE = Path(__file__).with_name("hooks.md")
HEAD = """\
# Hooks, specs and jobs

Written by `python docs/generate.py` from the code; edit the docstrings there, not this page. How to write a plugin is
told in [plugins.md](plugins.md). Everything named here is imported from `ftreg.plugin`, or from `ftreg.core.types`.
"""
SPECS = (
    specs.MethodSpec,
    specs.StepSpec,
    specs.EngineSpec,
    specs.FormatSpec,
    specs.MetricSpec,
    specs.CommandSpec,
    specs.Requirement,
)
RECORDS = (
    types.TrainJob,
    types.StepJob,
    types.Artifact,
    types.Tolerance,
    types.Source,
    types.Example,
    types.Message,
    types.Version,
    types.RunInfo,
    types.Problem,
)
PROTOCOLS = (types.Method, types.Step, types.Engine, types.Format, types.Metric, types.Progress)


def page() -> str:
    """The whole page."""
    hooks = [function for name, function in vars(hookspecs).items() if name.startswith("ftreg_")]
    parts = [HEAD, "## Hooks\n", _markdown(inspect.getdoc(hookspecs) or "").split("\n\n", 1)[1] + "\n"]
    parts += [_function(hook) for hook in hooks]
    parts += ["## Specs: what contributing hooks return\n", *(_record(spec) for spec in SPECS)]
    parts += ["## Jobs and records: what plugins are given and give back\n", *(_record(record) for record in RECORDS)]
    parts += ["## Protocols: what an `impl` is\n", *(_protocol(protocol) for protocol in PROTOCOLS)]
    return "\n".join(parts)


def signature(function: Callable[..., Any]) -> str:
    """A function's exact signature, annotations as they are written in the source."""
    found = inspect.signature(function)
    text = f"{function.__name__}{found.replace(return_annotation=inspect.Signature.empty)}"
    text = re.sub(r": '([^']*)'", r": \1", text)
    return f"{text} -> {found.return_annotation}"


def _function(function: Callable[..., Any]) -> str:
    return f"### `{signature(function)}`\n\n{_markdown(inspect.getdoc(function) or '')}\n"


def _record(record: type) -> str:
    """A dataclass: its fields with types, defaults and what its docstring says of them."""
    described = _attributes(record)
    rows = [
        f"| `{field.name}` | `{str(field.type).replace('|', chr(92) + '|')}` | {_default(field)} "
        f"| {described.get(field.name, '').replace('|', chr(92) + '|')} |"
        for field in dataclasses.fields(record)
    ]
    summary = re.split(r"\n\n(?:Attributes|Raises):", inspect.getdoc(record) or "")[0]
    table = ["| field | type | default | |", "|---|---|---|---|", *rows]
    return f"### `{record.__name__}`\n\n{_markdown(summary)}\n\n" + "\n".join(table) + "\n"


def _protocol(protocol: type) -> str:
    """A protocol: its methods with their exact signatures and docstrings."""
    methods = [
        f"- `{signature(function)}`: {' '.join((inspect.getdoc(function) or '').split()).replace('``', '`')}"
        for name, function in vars(protocol).items()
        if inspect.isfunction(function) and (not name.startswith("_") or name == "__call__")
    ]
    return f"### `{protocol.__name__}`\n\n{_markdown(inspect.getdoc(protocol) or '')}\n\n" + "\n".join(methods) + "\n"


def _attributes(record: type) -> dict[str, str]:
    """What the docstrings of a class and of those it inherits from say of each attribute."""
    found: dict[str, str] = {}
    for cls in reversed(record.__mro__):
        section = (inspect.getdoc(cls) or "").partition("Attributes:\n")[2].split("\n\n")[0]
        for name, text in re.findall(r"^ {4}(\w+): (.*(?:\n {5,}.*)*)", section, flags=re.MULTILINE):
            found[name] = " ".join(text.split()).replace("``", "`")
    return found


def _default(field: dataclasses.Field[Any]) -> str:
    if field.default is not dataclasses.MISSING:
        return f"`{field.default!r}`"
    if field.default_factory is not dataclasses.MISSING:
        return "empty"
    return "(required)"


def _markdown(docstring: str) -> str:
    """A docstring as Markdown: single backquotes, and fences around the examples that follow a double colon."""
    text = docstring.replace("``", "`") + "\n"
    example = re.compile(r"::\n\n((?:(?: {4}.*)?\n)+)")
    return example.sub(lambda found: f":\n\n```python\n{dedent(found[1]).strip()}\n```\n\n", text).strip()


def main() -> int:
    """Write the page; with ``--check`` only say whether it is up to date."""
    if "--check" in sys.argv[1:]:
        return 0 if PAGE.exists() and PAGE.read_text(encoding="utf-8") == page() else 1
    PAGE.write_text(page(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
