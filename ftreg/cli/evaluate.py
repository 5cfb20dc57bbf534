"""``ftreg eval`` and ``ftreg compare``: measure versions on held-out data."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from ftreg.cli.session import Session, human_size, json_option

if TYPE_CHECKING:
    from ftreg.evaluation import Evaluation
    from ftreg.pipeline.evaluations import HeldOut


@click.command()
@click.argument("ref")
@click.option("--data", help="A file, or a dataset in the registry; by default what the version was trained on.")
@click.option("--split", type=click.Choice(["test", "validation", "train"]), help="Which part of the dataset.")
@click.option("--limit", type=click.IntRange(1), help="Use only the first so many examples.")
@click.option("--engine", help="Engine to run the model with.")
@click.option("--answers", type=click.IntRange(0), default=3, show_default=True, help="How many answers to show.")
@json_option
@click.pass_obj
def evaluate(
    session: Session,
    ref: str,
    data: str | None,
    split: str | None,
    limit: int | None,
    engine: str | None,
    answers: int,
    as_json: bool,
) -> None:
    """Measure the version REF on held-out data; the figures are kept with it as evidence."""
    _compare(session, [ref], data, split, limit, engine, answers, as_json)


@click.command()
@click.argument("refs", nargs=-1, required=True)
@click.option("--data", help="A file, or a dataset in the registry; by default the first one in their lineage.")
@click.option("--split", type=click.Choice(["test", "validation", "train"]), help="Which part of the dataset.")
@click.option("--limit", type=click.IntRange(1), help="Use only the first so many examples.")
@click.option("--answers", type=click.IntRange(0), default=3, show_default=True, help="How many answers to show.")
@json_option
@click.pass_obj
def compare(
    session: Session,
    refs: tuple[str, ...],
    data: str | None,
    split: str | None,
    limit: int | None,
    answers: int,
    as_json: bool,
) -> None:
    """Measure the versions REFS side by side on the same held-out data."""
    _compare(session, list(refs), data, split, limit, None, answers, as_json)


def _compare(
    session: Session,
    refs: list[str],
    data: str | None,
    split: str | None,
    limit: int | None,
    engine: str | None,
    answers: int,
    as_json: bool,
) -> None:
    """Evaluate each of ``refs`` on the same examples, and show the figures and a few answers."""
    from ftreg.pipeline.evaluations import evaluate_version, held_out

    context = session.context
    examples = held_out(context, refs, data=data, split=split)
    results = {}
    for ref in refs:
        session.progress.say(f"evaluating {ref}")
        results[ref] = evaluate_version(context, ref, examples, limit=limit, engine=engine)
    if as_json:
        session.json({ref: asdict(result) for ref, result in results.items()})
        return
    _show_figures(session, results, examples)
    _show_answers(session, results, answers)


def _show_figures(session: Session, results: dict[str, Evaluation], data: HeldOut) -> None:
    metrics = list(next(iter(results.values())).metrics)
    rows: list[list[Any]] = []
    for ref, result in results.items():
        version = session.registry.get(ref)
        figures = [f"{result.metrics[metric]:.3f}" for metric in metrics]
        rows.append([version.ref, version.kind, human_size(version.size), f"{result.loss:.4f}", *figures])
    session.out.print(f"{data.split} split of {data.dataset}")
    session.table(["version", "kind", "size", "loss", *metrics], rows, right=["size", "loss", *metrics])


def _show_answers(session: Session, results: dict[str, Evaluation], count: int) -> None:
    """Print what each version answers to a few questions, taken from all over the examples."""
    first = next(iter(results.values())).answers
    count = min(count, len(first))
    for index in (number * len(first) // count for number in range(count)):
        rows = [["question", first[index].prompt], ["expected", first[index].reference]]
        rows += [[ref, result.answers[index].answer] for ref, result in results.items()]
        session.out.print()
        session.table(["", f"example {index + 1}"], [[who, " ".join(text.split())] for who, text in rows])
