"""Options that several commands share, and how a published version is shown."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click

from ftreg.cli.completion import complete_settings
from ftreg.cli.session import Session, human_size
from ftreg.core.errors import InputError

if TYPE_CHECKING:
    from ftreg.core.types import Version

CommandT = TypeVar("CommandT", bound=Callable[..., Any])


def set_option(command: CommandT) -> CommandT:
    """Add ``--set KEY=VALUE``, passed on as the mapping ``settings``."""
    return click.option(
        "--set",
        "settings",
        metavar="KEY=VALUE",
        multiple=True,
        callback=_read_settings,
        shell_complete=complete_settings,
        help="Change a setting; can be repeated.",
    )(command)


def training_options(command: CommandT) -> CommandT:
    """Add what all commands that train take: ``--column``, ``--set``, ``--dry-run`` and ``--resume``."""
    for option in (
        click.option("--resume", is_flag=True, help="Resume from the last checkpoint of the same run."),
        click.option("--dry-run", is_flag=True, help="Check everything and print what would be done."),
        set_option,
        column_option,
    ):
        command = option(command)
    return command


def _read_settings(ctx: click.Context, param: click.Parameter, values: Sequence[str]) -> dict[str, Any]:  # noqa: ARG001
    if not values:
        return {}
    from ftreg.core.recipe import read_setting

    settings: dict[str, Any] = {}
    for value in values:
        key, equals, text = value.partition("=")
        if not equals or not all(key.split(".")):
            raise InputError(f"{value!r} is not a setting", where="--set", hint="Write --set train.epochs=3")
        if key in settings:
            raise InputError(f"{key!r} is set twice", where="--set", hint="Keep one of the two.")
        settings[key] = read_setting(text, where=f"--set {key}")
    return settings


def column_option(command: CommandT) -> CommandT:
    """Add ``--column FIELD=COLUMN``, passed on as the mapping ``columns``."""
    return click.option(
        "--column",
        "columns",
        metavar="FIELD=COLUMN",
        multiple=True,
        callback=_read_columns,
        help="Read a field of the row format from this column, such as prompt=Question; can be repeated.",
    )(command)


def _read_columns(ctx: click.Context, param: click.Parameter, values: tuple[str, ...]) -> dict[str, str]:  # noqa: ARG001
    columns: dict[str, str] = {}
    for value in values:
        field, _, column = value.partition("=")
        if not field or not column:
            raise InputError(
                f"{value!r} does not name a column", where="--column", hint="Write --column prompt=Question"
            )
        if field in columns:
            raise InputError(f"{field!r} is given twice", where="--column", hint="Keep one of the two.")
        columns[field] = column
    return columns


def read_weights(
    texts: Sequence[str], *, where: str, default: float | None = None, smallest: float = 0.0
) -> dict[str, float]:
    """Read several ``REF=WEIGHT``; a reference alone has the weight ``default``, if there is one."""
    weights: dict[str, float] = {}
    for text in texts:
        ref, equals, number = text.partition("=")
        try:
            weight = float(number) if equals or default is None else default
        except ValueError:
            weight = math.nan
        if not ref or not math.isfinite(weight) or weight < smallest:
            raise InputError(
                f"{text!r} has no usable weight",
                where=where,
                hint="Write REF=WEIGHT, such as support-bot:1=80",
            )
        if ref in weights:
            raise InputError(f"{ref!r} is given twice", where=where, hint="Keep one of the two.")
        weights[ref] = weight
    return weights


def version_facts(session: Session, version: Version) -> dict[str, Any]:
    """The facts that every command prints of a version that it made or changed."""
    return {
        "ref": version.ref,
        "kind": version.kind,
        "digest": version.digest,
        "size": version.size,
        "state": version.state,
        "path": str(session.registry.source(version.digest).path) if version.state == "here" else None,
    }


def show_versions(session: Session, versions: Sequence[Version], *, as_json: bool) -> None:
    """Print the versions that a command made."""
    if as_json:
        facts = [version_facts(session, version) for version in versions]
        session.json(facts if len(facts) != 1 else facts[0])
        return
    session.table(
        ["version", "kind", "size", "digest", "vs. source"],
        [[v.ref, v.kind, human_size(v.size), v.digest[:15], parity_line(session, v.digest)] for v in versions],
        right=["size"],
        optional=["digest"],
    )


def parity_line(session: Session, ref: str) -> str:
    """The newest certificate of a version in a few words; empty if it has none."""
    records = [record for record in session.registry.evidence(ref) if record.type == "certificate"]
    if not records:
        return ""
    parity: Mapping[str, float] = records[-1].body["parity"]
    verdict = "  ACCEPTED OUT OF TOLERANCE" if records[-1].body["accepted"] else ""
    return (
        f"KL {parity['kl']:.2g}  top-1 {parity['top1']:.1%}  loss {parity['loss_delta']:+.3f}  "
        f"greedy {parity['greedy_prefix']:.1%}{verdict}"
    )
