"""``ftreg eval`` and ``ftreg compare``: measure versions on held-out data."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, TypeVar

import click

from ftreg.cli.command import Command
from ftreg.cli.completion import complete_plugins, complete_refs
from ftreg.cli.session import Session, human_size, json_option

if TYPE_CHECKING:
    from ftreg.api.evaluation import Comparison
    from ftreg.evaluation import Evaluation

CommandT = TypeVar("CommandT", bound=Callable[..., Any])


def _options(command: CommandT) -> CommandT:
    """Add the options that both commands share."""
    for option in (
        json_option,
        click.option(
            "--answers", type=click.IntRange(0), default=3, show_default=True, help="How many answers to show."
        ),
        click.option("--engine", help="Engine to run the models with.", shell_complete=complete_plugins("engine")),
        click.option("--limit", type=click.IntRange(1), help="Use only this many examples, from the first on."),
        click.option(
            "--split", type=click.Choice(["test", "validation", "train"]), help="Which part of the dataset to use."
        ),
        click.option("--data", help="A file, or a dataset in the registry; by default the one that was trained on."),
    ):
        command = option(command)
    return command


@click.command(
    cls=Command, examples=["ftreg eval support-bot:2", "ftreg eval support-bot:2 --data test.jsonl --limit 100 --json"]
)
@click.argument("ref", shell_complete=complete_refs)
@_options
@click.pass_obj
def evaluate(session: Session, /, ref: str, **options: Any) -> None:
    """Measure the version REF on held-out data, and store the figures with it as evidence."""
    _compare(session, [ref], **options)


@click.command(
    cls=Command,
    examples=[
        "ftreg compare support-bot:1 support-bot:2",
        "ftreg compare support-bot:2 support-bot-merged --split validation --answers 0",
    ],
)
@click.argument("refs", nargs=-1, required=True, shell_complete=complete_refs)
@_options
@click.pass_obj
def compare(session: Session, /, refs: tuple[str, ...], **options: Any) -> None:
    """Measure the versions REFS side by side on the same held-out data."""
    _compare(session, refs, **options)


def _compare(session: Session, /, refs: Sequence[str], *, answers: int, as_json: bool, **options: Any) -> None:
    """Measure versions, and print the figures and a few answers."""
    from ftreg.api import evaluation

    session.no_outcome = "no figures were recorded"
    comparison = evaluation.compare(refs, **options, **session.api_arguments)
    if as_json:
        session.json({ref: asdict(result) for ref, result in comparison.results.items()})
        return
    session.print(f"{comparison.split} split of {comparison.dataset}")
    _show_figures(session, comparison.results)
    _show_answers(session, comparison, answers)


def _show_figures(session: Session, results: Mapping[str, Evaluation]) -> None:
    metrics = list(dict.fromkeys(metric for result in results.values() for metric in result.metrics))
    rows: list[list[Any]] = []
    for ref, result in results.items():
        version = session.registry.get(ref)
        figures = [f"{result.metrics[metric]:.3f}" if metric in result.metrics else None for metric in metrics]
        rows.append([version.ref, version.kind, human_size(version.size), f"{result.loss:.4f}", *figures])
    session.table(
        ["version", "kind", "size", "loss", *metrics], rows, right=["size", "loss", *metrics], optional=["size", "kind"]
    )


def _show_answers(session: Session, comparison: Comparison, count: int) -> None:
    """Print what each version answers to a few questions that show how the versions differ."""
    first = next(iter(comparison.results.values())).answers
    for position in comparison.telling_examples(count):
        rows = [["question", "", _line(first[position].prompt)], ["expected", "", _line(first[position].reference)]]
        for ref, result in comparison.results.items():
            given = result.answers[position]
            rows.append([ref, "as expected" if given.as_expected else "differs", _line(given.answer)])
        session.print("")
        session.table(["", "", f"example {position + 1}"], rows)


def _line(text: str) -> str:
    return " ".join(text.split())
