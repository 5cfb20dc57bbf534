"""``ftreg eval`` and ``ftreg compare``: measure versions on held-out data."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, TypeVar

import click

from ftreg.cli.command import Command
from ftreg.cli.completion import complete_plugins, complete_refs
from ftreg.cli.options import set_option
from ftreg.cli.session import Session, human_size, json_option
from ftreg.core.errors import FtregError, InputError

if TYPE_CHECKING:
    from ftreg.api.evaluation import Comparison, Evaluation, SideBySide

CommandT = TypeVar("CommandT", bound=Callable[..., Any])

_SETTINGS = ["ftreg settings METRIC"]
_BETTER = {True: "higher", False: "lower", None: ""}
_ANSWERS = 3
_REPORTED = 50


def _options(command: CommandT) -> CommandT:
    """Add the options that both commands share."""
    for option in (
        json_option,
        click.option(
            "--answers",
            type=click.IntRange(0),
            help=f"How many answers to show; by default {_ANSWERS}, and {_REPORTED} in a report.",
        ),
        click.option("--again", is_flag=True, help="Compute everything anew, also what is on record."),
        click.option("--engine", help="Engine to run the models with.", shell_complete=complete_plugins("engine")),
        set_option,
        click.option(
            "--metric",
            "metrics",
            multiple=True,
            help="A metric to compute beside those that are always computed; may be given again.",
            shell_complete=complete_plugins("metric"),
        ),
        click.option("--limit", type=click.IntRange(1), help="Use only this many examples, from the first on."),
        click.option(
            "--split", type=click.Choice(["test", "validation", "train"]), help="Which part of the dataset to use."
        ),
        click.option("--data", help="A file, or a dataset in the registry; by default the one that was trained on."),
    ):
        command = option(command)
    return command


@click.command(
    cls=Command,
    settings=_SETTINGS,
    examples=[
        "ftreg eval support-bot:2",
        "ftreg eval support-bot:2 --data test.jsonl --limit 100 --json",
        "ftreg eval support-bot:2 --suite lm-eval:hellaswag,arc_easy --limit 200 --set lm-eval.num_fewshot=5",
    ],
)
@click.argument("ref", shell_complete=complete_refs)
@click.option("--golden", is_flag=True, help="Run the golden prompts of its name instead; fail if an answer does.")
@click.option("--suite", metavar="lm-eval:TASK[,TASK]", help="Run tasks of EleutherAI's lm-eval harness instead.")
@click.option(
    "--tasks", metavar="DIR", help="A folder with further tasks for the suite: YAML files, whose code is run."
)
@_options
@click.pass_obj
def evaluate(session: Session, /, ref: str, golden: bool, suite: str | None, tasks: str | None, **options: Any) -> None:
    """Measure the version REF on held-out data, or run golden prompts or a suite of tasks.

    Figures and answers are kept with it as evidence, and what is on record is not computed again.
    """
    if golden:
        _run_goldens(session, ref, suite=suite, tasks=tasks, **options)
    elif suite is not None:
        _run_suite(session, ref, suite, tasks=tasks, **options)
    elif tasks is not None:
        raise InputError("there are tasks without a suite", where="tasks", hint="Add --suite lm-eval:TASK.")
    else:
        _compare(session, [ref], **options)


def _run_goldens(session: Session, ref: str, *, engine: str | None, again: bool, as_json: bool, **options: Any) -> None:
    """Run the golden prompts, and print how each answer did."""
    from ftreg.api.goldens import check_goldens

    _refuse(options, "golden prompts", where="golden")
    run = check_goldens(ref, engine=engine, again=again, **session.api_arguments)
    if as_json:
        session.json(asdict(run) | {"failed": run.failed})
    else:
        rows = [[one.name, "; ".join(one.problems) or "as expected", _line(one.answer)] for one in run.results]
        session.table([run.goldens, "", "answer"], rows)
    if run.failed:
        raise FtregError(f"{run.ref} fails {run.failed} of {len(run.results)} golden prompts of {run.goldens}")


def _run_suite(
    session: Session,
    ref: str,
    suite: str,
    *,
    tasks: str | None,
    settings: Mapping[str, Any],
    limit: int | None,
    engine: str | None,
    again: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Run the tasks of a suite, and print their figures."""
    from ftreg.api.suites import run_suite

    _refuse(options, "suites", where="suite")
    session.no_outcome = "no figures were recorded"
    run = run_suite(
        ref, suite, tasks=tasks, settings=settings, limit=limit, engine=engine, again=again, **session.api_arguments
    )
    if as_json:
        session.json(asdict(run))
        return
    session.print(f"{run.ref} in {run.suite} {run.version}")
    rows = [
        [task.name, task.version, task.num_fewshot, task.examples, figure.metric, figure.filter, _number(figure.value),
         _number(figure.stderr), _BETTER[figure.higher_is_better]]
        for task in run.tasks
        for figure in task.figures
    ]  # fmt: skip
    columns = ["task", "version", "shots", "examples", "metric", "filter", "value", "stderr", "better"]
    session.table(columns, rows, right=["shots", "examples", "value", "stderr"], optional=["better", "version"])


def _refuse(options: Mapping[str, Any], what: str, *, where: str) -> None:
    """Raise ``InputError`` for an option that would be ignored."""
    if given := [name for name, value in options.items() if value]:
        raise InputError(f"{given[0]} says nothing about {what}", where=where, hint="Leave one of them out.")


@click.command(
    cls=Command,
    settings=_SETTINGS,
    examples=[
        "ftreg compare support-bot:1 support-bot:2",
        "ftreg compare support-bot:2 support-bot-merged --split validation --answers 0",
        "ftreg compare support-bot:1 support-bot:2 support-bot-merged --report report.html",
    ],
)
@click.argument("refs", nargs=-1, required=True, shell_complete=complete_refs)
@click.option(
    "--report",
    metavar="FILE",
    help="Write a report with intervals, tests, plots and answers to a file ending in .html or .md.",
)
@_options
@click.pass_obj
def compare(session: Session, /, refs: tuple[str, ...], **options: Any) -> None:
    """Measure the versions REFS side by side on the same held-out data.

    The first one is the baseline: the report, and --json, say whether the others differ from it by more than chance.
    """
    _compare(session, refs, **options)


def _compare(
    session: Session,
    /,
    refs: Sequence[str],
    *,
    answers: int | None,
    as_json: bool,
    report: str | None = None,
    **options: Any,
) -> None:
    """Measure versions, print the figures and a few answers, and write a report if one is asked for."""
    from ftreg.api import evaluation

    if report is not None:
        evaluation.check_report(report)
    session.no_outcome = "no figures were recorded"
    comparison = evaluation.compare(refs, **options, **session.api_arguments)
    tested = None
    if report is not None or (as_json and len(comparison.results) > 1):
        reported = _REPORTED if answers is None else answers
        tested = evaluation.report(comparison, report, answers=reported, **session.api_arguments)
    examples = comparison.telling_examples(_ANSWERS if answers is None else answers)
    if as_json:
        session.json(_facts(comparison, examples) | ({"report": asdict(tested)} if tested else {}))
        return
    session.print(f"{comparison.split} split of {comparison.dataset}")
    _show_figures(session, comparison.results)
    if len(comparison.results) == 1:  # those of several versions would fill the screen
        _show_tables(session, next(iter(comparison.results.values())))
    for example in examples:
        _show_answers(session, example)
    if report is not None:
        session.progress.say(f"the report is in {report}")


def _facts(comparison: Comparison, examples: Sequence[SideBySide]) -> dict[str, Any]:
    """Everything about a comparison as JSON; all answers are in the files that it names."""
    return {
        "dataset": comparison.dataset,
        "split": comparison.split,
        "results": {ref: _result(result) for ref, result in comparison.results.items()},
        "answers": [asdict(example) for example in examples],
    }


def _result(result: Evaluation) -> dict[str, Any]:
    """An evaluation as JSON."""
    return {**asdict(result), "figures": result.figures}


def _show_figures(session: Session, results: Mapping[str, Evaluation]) -> None:
    """Print a line for each figure, with a column for each version."""
    versions = [session.registry.get(ref) for ref in results]
    figures = [result.figures for result in results.values()]
    refs = [version.ref for version in versions]
    rows = [
        ["kind", *(version.kind for version in versions)],
        ["size", *(human_size(version.size) for version in versions)],
    ]
    names = dict.fromkeys(name for found in figures for name in found)
    rows += [[name, *(_number(found[name]) if name in found else "" for found in figures)] for name in names]
    session.table(["", *refs], rows, right=refs)


def _show_tables(session: Session, result: Evaluation) -> None:
    """Print the tables of the metrics."""
    for name, metric in result.metrics.items():
        for table in metric.tables:
            session.print(f"\n{name}: {table.title}")
            cells = [[_number(cell) if isinstance(cell, float) else cell for cell in row] for row in table.rows]
            session.table(table.columns, cells, right=table.columns[1:])


def _show_answers(session: Session, example: SideBySide) -> None:
    """Print what each version answers to a question."""
    first = next(iter(example.answers.values()))
    rows = [["question", "", _line(first.prompt)], ["expected", "", _line(first.reference)]]
    for ref, given in example.answers.items():
        rows.append([ref, "as expected" if given.as_expected else "differs", _line(given.answer)])
    session.print("")
    session.table(["", "", f"example {example.position + 1}"], rows)


def _number(value: float | None) -> str:
    """A figure with as many decimals as its size needs; nothing if there is none."""
    if value is None:
        return ""
    return f"{value:.4f}" if abs(value) < 10 else f"{value:.2f}"


def _line(text: str) -> str:
    return " ".join(text.split())
