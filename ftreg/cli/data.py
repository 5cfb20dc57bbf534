"""``ftreg data``: look at training data before training on it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ftreg.cli.command import Group
from ftreg.cli.completion import complete_plugins, complete_refs
from ftreg.cli.options import CommandT, column_option, set_option
from ftreg.cli.session import Session, json_option
from ftreg.core.errors import DataError

if TYPE_CHECKING:
    from ftreg.data.check import Finding
    from ftreg.data.stats import Lengths

_PATH = click.argument("path", type=click.Path(path_type=Path))
_ROWS_SHOWN = 8
_SETTINGS = ["ftreg settings data    (without the leading data.)"]


@click.group(cls=Group)
def command() -> None:
    """Check, summarize and preview training data.

    Settings of a recipe's data section are given with --set, such as --set group_by=intent or --set validation=0.2.
    """


def _data_options(command: CommandT) -> CommandT:
    """Add the options that say how to read a file, and with which base."""
    for option in (
        json_option,
        set_option,
        column_option,
        click.option("--max-length", type=click.IntRange(8), help="Tokens per sequence, as in train.max_length."),
        click.option("--format", default="auto", show_default=True, help="Row format; auto detects it.",
                     shell_complete=complete_plugins("format")),
    ):  # fmt: skip
        command = option(command)
    return command


def _base_option(*, required: bool) -> Callable[[CommandT], CommandT]:
    return click.option(
        "--base",
        required=required,
        shell_complete=complete_refs,
        help="Model whose tokenizer and template to use: a registry reference or a folder.",
    )


def _where(session: Session, base: str | None) -> dict[str, Any]:
    """The arguments of all functions of ``ftreg.api.data``; the registry only if a base may have to be found in it."""
    registry = session.registry if base is not None else None
    return {"host": session.host, "registry": registry, "progress": session.progress}


@command.command(
    settings=_SETTINGS,
    examples=["ftreg data check faq.jsonl", "ftreg data check faq.jsonl --base ./Qwen3-0.6B --set group_by=intent"],
)
@_PATH
@_base_option(required=False)
@_data_options
@click.pass_obj
def check(session: Session, /, path: Path, base: str | None, as_json: bool, **options: Any) -> None:
    """List every row of PATH that cannot be used, and warn about data that may harm training.

    The exit code is 2 if a row is bad. With --base, what the model's tokenizer and chat template make of the rows is
    checked too.
    """
    from ftreg.api import data

    report = data.check(path, base=base, **options, **_where(session, base))
    if as_json:
        session.json({**asdict(report), "path": str(path)})
    else:
        for row in report.bad:
            session.print(f"{report.place(row.row)}: {row.message}")
        for finding in report.warnings:
            session.print(f"warning: {finding.message}{_some_rows(finding)}")
        if not report.bad:
            session.print(f"{path}: {report.rows} rows, format {report.format}, all can be used")
    if report.bad:
        bad = len(report.bad)
        raise DataError(f"{bad} of {report.rows} rows cannot be used", where=str(path), hint="Correct or remove them.")


@command.command(
    settings=_SETTINGS,
    examples=["ftreg data stats faq.jsonl", "ftreg data stats faq.jsonl --base ./Qwen3-0.6B --max-length 512"],
)
@_PATH
@_base_option(required=False)
@_data_options
@click.pass_obj
def stats(session: Session, /, path: Path, base: str | None, as_json: bool, **options: Any) -> None:
    """Summarize PATH: rows, lengths, repeated rows, and the sizes of its splits. With --base, lengths in tokens too."""
    from ftreg.api import data

    facts = asdict(measured := data.stats(path, base=base, **options, **_where(session, base)))
    facts["path"] = str(path)
    if as_json:
        session.json(facts)
        return
    session.table(["", ""], [(key, value) for key, value in facts.items() if key != "lengths"])
    _show_lengths(session, measured.lengths)


@command.command(
    settings=_SETTINGS,
    examples=[
        "ftreg data preview faq.jsonl --base ./Qwen3-0.6B",
        "ftreg data preview faq.jsonl --base support-bot:2 --rows 1",
    ],
)
@_PATH
@_base_option(required=True)
@click.option("--rows", type=click.IntRange(1), default=3, show_default=True, help="How many rows to show.")
@_data_options
@click.pass_obj
def preview(session: Session, /, path: Path, base: str, as_json: bool, **options: Any) -> None:
    """Show the tokens of PATH's first rows as --base will see them: which are labelled, and which are masked."""
    from ftreg.api import data

    shown = data.preview(path, base, **options, **_where(session, base))
    if as_json:
        session.json([asdict(row) for row in shown])
        return
    from rich.text import Text

    for row in shown:
        count = sum(token.labelled for token in row.tokens)
        session.print(f"row {row.row}: {len(row.tokens)} tokens, {count} labelled", style="bold")
        for labelled, tokens in groupby(row.tokens, key=lambda token: token.labelled):
            line = Text("  labelled  " if labelled else "  masked    ", style="bold green" if labelled else "dim")
            for token in tokens:
                line.append("|", style="dim")
                line.append(_visible(token.text), style="green" if labelled else "dim")
            session.out.print(line.append("|", style="dim"))


@command.command(examples=["ftreg data stdlib stdlib.jsonl"])
@click.argument("out", type=click.Path(path_type=Path, dir_okay=False))
@json_option
@click.pass_obj
def stdlib(session: Session, out: Path, as_json: bool) -> None:
    """Write the docstrings of Python's standard library to OUT: real English text that needs no download."""
    from ftreg.api import data

    rows = data.write_stdlib(out)
    if as_json:
        session.json({"path": str(out), "rows": rows})
    else:
        session.progress.say(f"{rows} texts written to {out}")


def _some_rows(finding: Finding) -> str:
    """The first rows that a finding is about, in brackets."""
    if not finding.rows:
        return ""
    more = ", ..." if len(finding.rows) > _ROWS_SHOWN else ""
    return f" (row{'s' * (len(finding.rows) > 1)} {', '.join(map(str, finding.rows[:_ROWS_SHOWN]))}{more})"


def _show_lengths(session: Session, lengths: Mapping[str, Lengths]) -> None:
    columns = ["length in", "min", "median", "mean", "p90", "p99", "max", "total"]
    session.table(
        columns,
        [
            [what, m.minimum, m.median, f"{m.mean:.1f}", m.p90, m.p99, m.maximum, m.total]
            for what, m in lengths.items()
        ],
        right=columns[1:],
    )  # fmt: skip
    what, measured = next((item for item in lengths.items() if item[0] == "tokens"), next(iter(lengths.items())))
    largest = max(count for _, _, count in measured.histogram)
    session.table(
        [what, "rows", ""],
        [[f"{low}-{high}", count, "#" * round(40 * count / largest)] for low, high, count in measured.histogram],
        right=["rows"],
    )


def _visible(text: str) -> str:
    """Text with its control characters shown, so that a token stays on its line."""
    shown: list[Any] = [character if character.isprintable() else repr(character)[1:-1] for character in text]
    return "".join(shown)
