"""``ftreg experiment``: follow an experiment, change its weights, and promote or roll back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from ftreg.cli.command import Group
from ftreg.cli.completion import complete_refs, complete_weights
from ftreg.cli.options import read_weights, version_facts
from ftreg.cli.session import Session, json_option

if TYPE_CHECKING:
    from ftreg.serving.experiment.decision import Decision

CommandT = TypeVar("CommandT", bound=Callable[..., Any])


def record_options(command: CommandT) -> CommandT:
    """Add ``--experiment``, ``--db`` and ``--json``."""
    for option in (
        json_option,
        click.option(
            "--db", type=click.Path(path_type=Path), help="The record; by default this machine's servers' own."
        ),
        click.option(
            "--experiment", metavar="ID|NAME",
            help="An experiment of the record, by id, the start of its id, or name; by default the last served.",
        ),
    ):  # fmt: skip
        command = option(command)
    return command


@click.group(cls=Group)
def command() -> None:
    """Follow the experiment of the deployment NAME, change its weights, and promote or roll back.

    The record is experiment.db in the state folder of the deployment's servers. It keeps all experiments of NAME.
    """


@command.command("status", examples=["ftreg experiment status support-bot"])
@click.argument("name")
@record_options
@click.pass_obj
def status_command(session: Session, /, name: str, as_json: bool, **record: Any) -> None:
    """Show weights, split and requests, and the other experiments of the record."""
    from ftreg.api import experiments
    from ftreg.cli.experiment_tables import show_status

    status = experiments.status(name, **record)
    if as_json:
        session.json(asdict(status))
    else:
        show_status(session, status)


@command.command(
    "report", examples=["ftreg experiment report support-bot", "ftreg experiment report support-bot --json"]
)
@click.argument("name")
@record_options
@click.pass_obj
def report_command(session: Session, /, name: str, as_json: bool, **record: Any) -> None:
    """Show the figures of the variants, what may be concluded from them, and a verdict.

    It may be read at any time and as often as you like: the confidence intervals stay valid.
    """
    from ftreg.api import experiments
    from ftreg.cli.experiment_tables import show_report

    report = experiments.report(name, **record)
    if as_json:
        session.json(asdict(report))
    else:
        show_report(session, report)


def _read_weights(ctx: click.Context, param: click.Parameter, texts: Sequence[str]) -> dict[str, float]:  # noqa: ARG001
    return read_weights(texts, where="REF=WEIGHT")


@command.command("set", examples=["ftreg experiment set support-bot support-bot:2=50"])
@click.argument("name")
@click.argument("weights", metavar="REF=WEIGHT...", nargs=-1, required=True, callback=_read_weights,
                shell_complete=complete_weights)  # fmt: skip
@click.option("--url", default="http://127.0.0.1:3000", show_default=True, help="Where the server answers.")
@click.option(
    "--token", envvar="FTREG_ADMIN_TOKEN", help="The server's admin token; by default the one stored on this machine."
)
@json_option
@click.pass_obj
def set_command(session: Session, /, name: str, as_json: bool, **options: Any) -> None:
    """Change weights on the running server; variants that are not named keep theirs.

    As few users as possible move to another variant, and no request fails. The token may also be in $FTREG_ADMIN_TOKEN.
    """
    from ftreg.api import experiments

    answer = experiments.set_weights(name, **options)
    if as_json:
        session.json(answer)
        return
    session.table(
        ["version", "weight", "share"],
        [[ref, f"{weight:g}", f"{answer['shares'][ref]:.1%}"] for ref, weight in answer["weights"].items()],
        right=["weight", "share"],
    )


@command.command(
    "promote",
    examples=["ftreg experiment promote support-bot", "ftreg experiment promote support-bot support-bot:2 --force"],
)
@click.argument("name")
@click.argument("ref", required=False, shell_complete=complete_refs)
@click.option("--force", is_flag=True, help="Promote even if the verdict disagrees; the evidence is marked as forced.")
@record_options
@click.pass_obj
def promote_command(session: Session, /, name: str, as_json: bool, **options: Any) -> None:
    """Point the alias at the challenger that has won, and store the report as evidence on it and on the control."""
    from ftreg.api import experiments

    _show_decision(session, experiments.promote(name, **options, **session.api_arguments), as_json=as_json)


@command.command("rollback", examples=["ftreg experiment rollback support-bot"])
@click.argument("name")
@record_options
@click.pass_obj
def rollback_command(session: Session, /, name: str, as_json: bool, **options: Any) -> None:
    """Point the alias at the control again, and store the report as evidence on all variants."""
    from ftreg.api import experiments

    _show_decision(session, experiments.rollback(name, **options, **session.api_arguments), as_json=as_json)


def _show_decision(session: Session, decision: Decision, *, as_json: bool) -> None:
    """Print which alias has moved where."""
    version, alias = decision.version, decision.alias
    if as_json:
        removed = [holder.ref for holder in decision.removed]
        session.json(
            {"decision": decision.decision, "alias": alias, "forced": decision.forced, "removed": removed}
            | version_facts(session, version)
        )
        return
    session.progress.say(
        f"{version.name}@{alias} now points to {version.ref}" + (", forced" if decision.forced else "")
    )
    for holder in decision.removed:
        session.progress.say(f"{holder.name}@{alias} pointed to {holder.ref} and was removed")
    session.progress.say("running servers keep their weights; ftreg experiment set changes them")
