"""``ftreg data``: look at training data before training on it."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ftreg.cli.options import CommandT, column_option, set_option
from ftreg.cli.session import Session, json_option
from ftreg.core.errors import DataError, InputError

if TYPE_CHECKING:
    from ftreg.core.recipe import DataConfig
    from ftreg.data import Encoder
    from ftreg.data.check import Finding
    from ftreg.data.stats import Lengths

_PATH = click.argument("path", type=click.Path(path_type=Path))
_ROWS_SHOWN = 8


@click.group()
def command() -> None:
    """Check, summarize and preview training data.

    Settings of a recipe's data section are given with --set, such as --set group_by=intent or --set validation=0.2.
    """


def _data_options(command: CommandT) -> CommandT:
    """Add the options that say how to read a file, and with which base."""
    for option in (
        click.option("--format", "format_name", default="auto", show_default=True, help="Row format; auto detects it."),
        click.option("--base", help="Model whose tokenizer and template to use: a registry reference or a folder."),
        click.option("--max-length", type=click.IntRange(8), help="Tokens per sequence, as in train.max_length."),
        column_option,
        set_option,
    ):
        command = option(command)
    return command


@command.command()
@_PATH
@_data_options
@json_option
@click.pass_obj
def check(
    session: Session,
    path: Path,
    format_name: str,
    base: str | None,
    max_length: int | None,
    columns: dict[str, str],
    settings: dict[str, str],
    as_json: bool,
) -> None:
    """Name every row of PATH that cannot be used, and what is likely to spoil a training.

    Exits with 2 where a row is bad. With --base, what the model's tokenizer and chat template make of the rows is
    checked too.
    """
    from ftreg.data import read_data
    from ftreg.data.check import check_content, check_tokens
    from ftreg.data.rows import place

    config = _config(path, settings, columns)
    data = read_data(path, format=format_name, columns=config.columns, host=session.host)
    findings, bad = check_content(data, config), list(data.bad)
    if base is not None:
        about_tokens, refused = check_tokens(data, _encoder(session, base, max_length, config))
        findings += about_tokens
        bad = sorted([*bad, *refused], key=lambda row: row.row)
    total = len(data.examples) + len(data.bad)
    if as_json:
        session.json(
            {
                "path": str(path),
                "format": data.format,
                "rows": total,
                "bad": [asdict(row) for row in bad],
                "warnings": [asdict(finding) for finding in findings],
            }
        )
    else:
        for row in bad:
            click.echo(f"{place(path, row.row)}: {row.message}")
        for finding in findings:
            click.echo(f"warning: {finding.message}{_some_rows(finding)}")
        if not bad:
            click.echo(f"{path}: {total} rows, format {data.format}, all can be used")
    if bad:
        raise DataError(f"{len(bad)} of {total} rows cannot be used", where=str(path), hint="Mend or remove them.")


@command.command()
@_PATH
@_data_options
@json_option
@click.pass_obj
def stats(
    session: Session,
    path: Path,
    format_name: str,
    base: str | None,
    max_length: int | None,
    columns: dict[str, str],
    settings: dict[str, str],
    as_json: bool,
) -> None:
    """Summarize PATH: rows, lengths, repeated rows, and the sizes of its splits. With --base, lengths in tokens too."""
    from ftreg.data import load_examples, split_examples
    from ftreg.data.check import repeated
    from ftreg.data.stats import characters, measure

    config = _config(path, settings, columns)
    examples, name = load_examples(path, format=format_name, columns=config.columns, host=session.host)
    splits = split_examples(examples, config, session.progress)
    lengths = {"characters": measure([characters(example) for example in examples])}
    if base is not None:
        encoded = _encoder(session, base, max_length, config).encode_batch(examples)
        lengths["tokens"] = measure([len(item.input_ids) + item.cut for item in encoded])
        lengths["labelled tokens"] = measure([item.labelled for item in encoded])
    facts = {
        "path": str(path),
        "format": name,
        "rows": len(examples),
        "duplicates": len(repeated(examples)),
        "train": len(splits.train),
        "validation": len(splits.validation),
        "test": len(splits.test),
    }
    if as_json:
        session.json({**facts, "lengths": {what: asdict(measured) for what, measured in lengths.items()}})
        return
    session.table(["", ""], facts.items())
    _show_lengths(session, lengths)


@command.command()
@_PATH
@_data_options
@click.option("--rows", type=click.IntRange(1), default=3, show_default=True, help="How many rows to show.")
@json_option
@click.pass_obj
def preview(
    session: Session,
    path: Path,
    format_name: str,
    base: str | None,
    max_length: int | None,
    columns: dict[str, str],
    settings: dict[str, str],
    rows: int,
    as_json: bool,
) -> None:
    """Show the tokens of PATH's first rows as --base will see them: which are labelled, and which are masked."""
    from ftreg.data import read_data
    from ftreg.data.preview import preview as tokens_of
    from ftreg.data.preview import runs

    if base is None:
        raise InputError("--base is missing", where="ftreg data preview", hint="Name the model that you will train.")
    config = _config(path, settings, columns)
    encoder = _encoder(session, base, max_length, config)
    data = read_data(path, format=format_name, columns=config.columns, host=session.host)
    shown = [(row, tokens_of(encoder, example)) for row, example in zip(data.rows[:rows], data.examples, strict=False)]
    if as_json:
        session.json([{"row": row, "tokens": [asdict(token) for token in tokens]} for row, tokens in shown])
        return
    from rich.text import Text

    for row, tokens in shown:
        session.out.print(
            f"row {row}: {len(tokens)} tokens, {sum(token.labelled for token in tokens)} labelled", style="bold"
        )
        for labelled, run in runs(tokens):
            line = Text("  labelled  " if labelled else "  masked    ", style="bold green" if labelled else "dim")
            for token in run:
                line.append("|", style="dim")
                line.append(_visible(token.text), style="green" if labelled else "dim")
            session.out.print(line.append("|", style="dim"))


@command.command()
@click.argument("out", type=click.Path(path_type=Path, dir_okay=False))
@click.pass_obj
def stdlib(session: Session, out: Path) -> None:
    """Write the docstrings of Python's standard library to OUT: real English text that needs no download."""
    from ftreg.core.manifest import canonical_json
    from ftreg.data import stdlib_docstrings

    examples = stdlib_docstrings()
    out.parent.mkdir(parents=True, exist_ok=True)
    with out.open("wb") as file:
        file.writelines(canonical_json({"text": example.text}) + b"\n" for example in examples)
    session.progress.say(f"{len(examples)} texts written to {out}")


def _config(path: Path, settings: dict[str, str], columns: dict[str, str]) -> DataConfig:
    from ftreg.core.recipe import DataConfig, apply_settings, validate

    raw = {**apply_settings({"columns": columns}, settings), "path": str(path)}
    return validate(DataConfig, raw, where="--set")


def _encoder(session: Session, base: str, max_length: int | None, config: DataConfig) -> Encoder:
    """The encoder of a base; raise ``InputError`` where nothing goes by that name, or it has no tokenizer."""
    from ftreg.core.recipe import TrainConfig
    from ftreg.data import Encoder, read_template
    from ftreg.models.tokenizer import load_tokenizer
    from ftreg.pipeline.inputs import is_path

    folder = Path(base).expanduser() if is_path(base) else session.registry.source(base).path
    if not folder.is_dir():
        raise InputError("no such folder", where=f"--base {base}", hint="Give a registry reference or a folder.")
    length = max_length or TrainConfig().max_length
    return Encoder(load_tokenizer(folder), max_length=length, template=read_template(config.template))


def _some_rows(finding: Finding) -> str:
    """The first rows that a finding is about, in brackets."""
    if not finding.rows:
        return ""
    more = ", ..." if len(finding.rows) > _ROWS_SHOWN else ""
    return f" (row{'s' * (len(finding.rows) > 1)} {', '.join(map(str, finding.rows[:_ROWS_SHOWN]))}{more})"


def _show_lengths(session: Session, lengths: dict[str, Lengths]) -> None:
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
