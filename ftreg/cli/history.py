"""``ftreg replay`` and ``ftreg bisect``: do again what made a version, and find the step that lost the quality."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from ftreg.cli.command import Command
from ftreg.cli.completion import complete_plugins, complete_refs
from ftreg.cli.options import set_option
from ftreg.cli.session import Session, json_option

if TYPE_CHECKING:
    from ftreg.api.history import Bisection


@click.command(
    cls=Command, examples=["ftreg replay support-bot:2", "ftreg replay support-bot-merged --kl 0.001 --json"]
)
@click.argument("ref", shell_complete=complete_refs)
@click.option("--kl", type=click.FloatRange(min=0), help="Largest KL divergence, in nats per token, within tolerance.")
@json_option
@click.pass_obj
def replay(session: Session, ref: str, kl: float | None, as_json: bool) -> None:
    """Do again what made REF, and grade the result: bit-exact, within tolerance or different.

    The work is done from the recorded inputs, configuration and seed. Nothing is published; the grade is kept with the
    version as evidence. The exit code is 1 if the result is different.
    """
    from ftreg.api import history

    session.no_outcome = "no grade was recorded"
    found = history.replay(ref, kl=kl, **session.api_arguments)
    if as_json:
        session.json(asdict(found))
    else:
        session.print(f"{found.ref}, made again in {found.seconds:.1f} s: {found.grade}")
        same, total = len(found.files.same), len(found.files.same + found.files.different + found.files.missing)
        session.print(f"  {same} of {total} files are the same")
        for reason in found.reasons:
            session.print(f"  {reason}")
    if found.grade == "different":
        sys.exit(1)


@click.command(
    cls=Command,
    settings=["ftreg settings METRIC"],
    examples=[
        "ftreg bisect support-bot-merged-quantized",
        "ftreg bisect support-bot:2 --metric exact_match --limit 200",
    ],
)
@click.argument("ref", shell_complete=complete_refs)
@click.option(
    "--metric", default="loss", show_default=True, shell_complete=complete_plugins("metric"),
    help="The figure to compare: loss, token_accuracy, or a metric such as exact_match or rouge.rougeL.",
)  # fmt: skip
@set_option
@click.option("--data", help="A file, or a dataset in the registry; by default the one that was trained on.")
@click.option("--split", type=click.Choice(["test", "validation", "train"]), help="Which part of the dataset to use.")
@click.option("--limit", type=click.IntRange(2), help="Use only this many examples, from the first on.")
@click.option(
    "--margin", type=click.FloatRange(min=0), default=0.01, show_default=True,
    help="The smallest loss of quality that counts.",
)  # fmt: skip
@json_option
@click.pass_obj
def bisect(session: Session, /, ref: str, as_json: bool, **options: Any) -> None:
    """Find the step at which REF lost its quality.

    REF and what it was made from are measured on the same examples. A step lost quality if its result is worse than its
    source by at least the margin, and by more than chance explains: a paired bootstrap interval excludes zero.
    """
    from ftreg.api import history

    session.no_outcome = "nothing was recorded"
    found = history.bisect(ref, **options, **session.api_arguments)
    if as_json:
        session.json(asdict(found))
        return
    session.print(f"{found.split} split of {found.dataset}, {found.examples} examples")
    interval = f"{100 * found.confidence:.3g} % interval"
    session.table(
        ["version", "made by", found.metric, "change", interval, ""],
        list(_rows(found)),
        right=[found.metric, "change", interval],
    )
    session.print(_verdict(found))
    if found.plot is not None:
        session.print(f"picture: {found.plot}")


def _rows(found: Bisection) -> Iterator[list[str]]:
    """Yield a row of the table for each version of the chain."""
    for link in found.links:
        change = "" if link.change is None else f"{link.change:+.4f}"
        interval = "" if link.interval is None else f"{link.interval[0]:+.4f} to {link.interval[1]:+.4f}"
        verdict = "lost quality" if link.lost else f"not measured: {link.skipped}" if link.skipped else ""
        yield [link.ref, link.made_by, "" if link.figure is None else f"{link.figure:.4f}", change, interval, verdict]


def _verdict(found: Bisection) -> str:
    """Say which step lost the quality."""
    if found.culprit is None:
        return f"no step lost {found.margin:g} or more beyond what chance explains"
    link = next(link for link in found.links if link.ref == found.culprit)
    return f"{link.ref} lost the quality: {link.made_by} changed the {found.metric} by {link.change:+.4f}"
