"""``ftreg merge``, ``quantize``, ``prune``, ``export`` and ``apply``: transform a version into a new one."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

from ftreg.cli.command import Command
from ftreg.cli.completion import complete_formats, complete_plugins, complete_refs, complete_weights
from ftreg.cli.options import read_weights, set_option, show_versions
from ftreg.cli.session import Session, json_option

CommandT = TypeVar("CommandT", bound=Callable[..., Any])

_ref = click.argument("ref", shell_complete=complete_refs)
_merge = click.option("--merge", is_flag=True, help="If REF is an adapter, merge it into its base first.")


def step_options(command: CommandT) -> CommandT:
    """Add what all steps share: ``--set``, ``--name``, ``--accept``, ``--json``."""
    for option in (
        json_option,
        click.option(
            "--accept", is_flag=True, help="Publish the result even if it is further from its source than allowed."
        ),
        click.option("--name", help="Name of the result; by default bot-merged for step merge of bot."),
        set_option,
    ):
        command = option(command)
    return command


def _read_others(ctx: click.Context, param: click.Parameter, texts: Sequence[str]) -> dict[str, float]:  # noqa: ARG001
    # A negative weight takes an update away: task arithmetic.
    return read_weights(texts, where="--with", default=1.0, smallest=-math.inf)


def with_option(command: CommandT) -> CommandT:
    """Add ``--with REF=WEIGHT``, passed on as the mapping ``others``, and ``--weight``."""
    command = click.option(
        "--weight", type=float, default=1.0, help="Weight of REF itself, with --with; by default 1."
    )(command)
    return click.option(
        "--with",
        "others",
        metavar="REF[=WEIGHT]",
        multiple=True,
        callback=_read_others,
        shell_complete=complete_weights,
        help="A further version to combine with REF, and its weight (by default 1); can be repeated.",
    )(command)


@click.command(
    cls=Command,
    settings=["ftreg settings merge"],
    examples=["ftreg merge support-bot:2", "ftreg merge support-bot:2 --with support-bot:1=0.5 --name blend"],
)
@_ref
@with_option
@step_options
@click.pass_obj
def merge(session: Session, /, ref: str, as_json: bool, **options: Any) -> None:
    """Merge the adapter REF into its base; the result is a full checkpoint."""
    _apply(session, "merge", ref, options, as_json=as_json)


@click.command(
    cls=Command,
    settings=["ftreg settings quantize"],
    examples=[
        "ftreg quantize support-bot:2 --merge",
        "ftreg quantize support-bot-merged --scheme gptq --set bits=4 --set group_size=64",
    ],
)
@_ref
@click.option("--scheme", help="int8, nf4, gptq or awq.")
@_merge
@step_options
@click.pass_obj
def quantize(session: Session, /, ref: str, as_json: bool, **options: Any) -> None:
    """Store the weights of the checkpoint REF in fewer bits."""
    _apply(session, "quantize", ref, options, as_json=as_json)


@click.command(
    cls=Command,
    settings=["ftreg settings prune"],
    examples=[
        "ftreg prune support-bot-merged --sparsity 0.2",
        "ftreg prune support-bot-merged --set pattern=2:4 --set criterion=wanda",
    ],
)
@_ref
@click.option("--sparsity", type=float, help="Share of the weights to set to zero, such as 0.5.")
@_merge
@step_options
@click.pass_obj
def prune(session: Session, /, ref: str, as_json: bool, **options: Any) -> None:
    """Set the least important weights of the checkpoint REF to zero."""
    _apply(session, "prune", ref, options, as_json=as_json)


@click.command(
    cls=Command,
    settings=["ftreg settings onnx    (or another format)"],
    examples=[
        "ftreg export support-bot-merged --format onnx --set precision=int4",
        "ftreg export support-bot:2 --to ./support-bot",
    ],
)
@_ref
@click.option("--format", help="What to export to; onnx is built in, plugins bring others.",
              shell_complete=complete_formats)  # fmt: skip
@click.option("--to", type=click.Path(path_type=Path), help="Copy the files into this new folder, with a model card.")
@_merge
@step_options
@click.pass_obj
def export(session: Session, /, ref: str, as_json: bool, **options: Any) -> None:
    """Export the checkpoint REF to ONNX; with --to and no --format, copy the files of REF as they are."""
    from ftreg.api import steps

    show_versions(session, [steps.export(ref, **options, **session.api_arguments)], as_json=as_json)


@click.command(
    cls=Command,
    settings=["ftreg settings STEP"],
    examples=["ftreg apply drop-layers support-bot-merged --set count=1", "ftreg plugins list --kind step"],
)
@click.argument("step", shell_complete=complete_plugins("step"))
@_ref
@with_option
@_merge
@step_options
@click.pass_obj
def apply(session: Session, /, step: str, ref: str, as_json: bool, **options: Any) -> None:
    """Apply any STEP, including those of plugins, to the version REF."""
    _apply(session, step, ref, options, as_json=as_json)


def _apply(session: Session, step: str, ref: str, options: Mapping[str, Any], *, as_json: bool) -> None:
    """Apply a step with the options that were given, and print the result."""
    from ftreg.api import steps

    given = {key: value for key, value in options.items() if value is not None}
    show_versions(session, [steps.apply(step, ref, **given, **session.api_arguments)], as_json=as_json)
