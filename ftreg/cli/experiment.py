"""``ftreg experiment``: watch an experiment, change its weights, and act on what it has found."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from ftreg.cli.session import Session, json_option
from ftreg.core.errors import FtregError, InputError, UnknownName
from ftreg.core.names import check_name

if TYPE_CHECKING:
    from ftreg.core.types import Version
    from ftreg.registry import Registry
    from ftreg.serving.deployment import Variant
    from ftreg.serving.history import History
    from ftreg.serving.report import Report

CommandT = TypeVar("CommandT", bound=Callable[..., Any])

SERVER = "http://127.0.0.1:3000"


def db_option(command: CommandT) -> CommandT:
    """Add ``--db``, passed on as ``db``."""
    return click.option(
        "--db", type=click.Path(path_type=Path), help="The record, if it is not where this machine's servers keep it."
    )(command)


@click.group()
def command() -> None:
    """Watch the experiment of the deployment NAME, change its weights, and act on what it has found.

    The record is experiment.db in the state folder of the deployment's servers.
    """


@command.command("status")
@click.argument("name")
@db_option
@json_option
@click.pass_obj
def status_command(session: Session, name: str, db: Path | None, as_json: bool) -> None:
    """Show weights, split and requests."""
    facts = _status(_history(name, db))
    if as_json:
        session.json(facts)
        return
    session.table(
        ["version", "weight", "share", "units", "requests"],
        [
            [row["ref"], f"{row['weight']:g}", f"{row['share']:.1%}", row["units"], row["requests"]]
            for row in facts["variants"]
        ],
        right=["weight", "share", "units", "requests"],
    )
    routes = ", ".join(f"{count} {route}" for route, count in facts["requests"].items())
    session.out.print(f"\nexperiment {facts['experiment']}: {routes or 'no'} requests", markup=False)
    for epoch in facts["epochs"]:
        weights = " ".join(f"{ref}={weight:g}" for ref, weight in epoch["weights"].items())
        session.out.print(f"epoch {epoch['epoch']} since {_moment(epoch['at'])}: {weights}", markup=False)


def _status(history: History) -> dict[str, Any]:
    deployment, allocation, shares = history.deployment, history.allocations[-1], history.allocations[-1].shares
    units = Counter(unit.ref for unit in history.units)
    requests = Counter({usage.ref: usage.requests for usage in history.usage if usage.route == "experiment"})
    routes: Counter[str] = Counter()
    for usage in history.usage:
        routes[usage.route] += usage.requests
    return {
        "deployment": deployment.name,
        "experiment": deployment.experiment,
        "id": history.experiment,
        "created": history.created,
        "epochs": [
            {"epoch": epoch.epoch, "at": at, "weights": dict(epoch.weights)}
            for epoch, at in zip(history.allocations, history.changes, strict=True)
        ],
        "requests": dict(routes),
        "variants": [
            {
                "ref": ref,
                "weight": weight,
                "share": shares[ref],
                "units": units[ref],
                "requests": requests[ref],
            }
            for ref, weight in allocation.weights.items()
        ],
        "shadows": [variant.ref for variant in deployment.shadows],
    }


def _moment(at: float) -> str:
    """A moment to the second, in UTC, as people read it."""
    from datetime import UTC, datetime

    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


@command.command("report")
@click.argument("name")
@db_option
@json_option
@click.pass_obj
def report_command(session: Session, name: str, db: Path | None, as_json: bool) -> None:
    """Show the figures of the variants, what may be concluded from them, and a verdict.

    It may be looked at as often as one likes: the intervals hold at all times together.
    """
    from ftreg.serving.report import make_report

    report = make_report(_history(name, db))
    if as_json:
        session.json(asdict(report))
        return
    from ftreg.cli.experiment_tables import show_report

    show_report(session, report)


@command.command("set")
@click.argument("name")
@click.argument("weights", metavar="REF=WEIGHT...", nargs=-1, required=True)
@click.option("--url", default=SERVER, show_default=True, help="Where the server answers.")
@click.option("--token", envvar="FTREG_ADMIN_TOKEN", help="The server's admin token; by default the one it has stored.")
@json_option
@click.pass_obj
def set_command(
    session: Session, name: str, weights: tuple[str, ...], url: str, token: str | None, as_json: bool
) -> None:
    """Change weights on the running server; variants that are not named keep theirs.

    As few users as possible change over, and no request fails. The token may also be in $FTREG_ADMIN_TOKEN.
    """
    from ftreg.cli.experiment_client import put_weights

    answer = put_weights(url, token or _stored_token(name), _read_weights(weights))
    if as_json:
        session.json(answer)
        return
    session.table(
        ["version", "weight", "share"],
        [[ref, f"{weight:g}", f"{answer['shares'][ref]:.1%}"] for ref, weight in answer["weights"].items()],
        right=["weight", "share"],
    )


def _read_weights(weights: tuple[str, ...]) -> dict[str, float]:
    read: dict[str, float] = {}
    for text in weights:
        ref, equals, weight = text.rpartition("=")
        try:
            value = float(weight)
        except ValueError:
            value = math.nan
        if not ref or not equals or not math.isfinite(value) or value < 0:
            raise InputError(f"{text!r} gives no weight", where="REF=WEIGHT", hint="Write support-bot:2=20")
        if ref in read:
            raise InputError(f"{ref!r} is given twice", where="REF=WEIGHT", hint="Keep one of the two.")
        read[ref] = value
    return read


def _stored_token(name: str) -> str:
    """The admin token that the deployment's servers on this machine have stored."""
    from ftreg.serving.deployment import state_folder

    path = state_folder(check_name(name)) / "admin-token"
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = "there is no admin token" if isinstance(error, FileNotFoundError) else f"cannot be read: {error}"
        hint = "A server makes it at its start; give another's with --token or $FTREG_ADMIN_TOKEN."
        raise InputError(reason, where=str(path), hint=hint) from None


@command.command("promote")
@click.argument("name")
@click.argument("ref", required=False)
@click.option("--force", is_flag=True, help="Although the verdict does not say so; that goes on record.")
@db_option
@click.pass_obj
def promote_command(session: Session, name: str, ref: str | None, force: bool, db: Path | None) -> None:
    """Point the alias at the challenger that has won, and store the report as evidence on it and on the control."""
    from ftreg.serving.report import make_report

    history = _history(name, db)
    report = make_report(history)
    winner = report.verdict.ref if report.verdict.decision == "promote" else None
    chosen = _choose(report, ref, winner, force=force)
    _decide(session, history, report, "promote", chosen, [report.control, chosen], forced=chosen != winner)


def _choose(report: Report, ref: str | None, winner: str | None, *, force: bool) -> str:
    """Who is to be promoted; raise where that is not known, or not what the verdict says."""
    challengers = [comparison.ref for comparison in report.comparisons]
    if ref is not None and ref not in challengers:
        hint = f"{ref} is the control; see ftreg experiment rollback." if ref == report.control else None
        raise UnknownName("challenger", ref, challengers, hint=hint)
    chosen = ref or winner
    if not force and (chosen is None or chosen != winner):
        raise FtregError(
            f"the verdict is {report.verdict.decision}: {report.verdict.reason}",
            hint="Wait for more feedback, or use --force.",
        )
    if chosen is None and len(challengers) != 1:
        known = ", ".join(challengers) or "there are none"
        raise InputError("say which challenger", where="REF", hint=f"Challengers: {known}.")
    return chosen or challengers[0]


@command.command("rollback")
@click.argument("name")
@db_option
@click.pass_obj
def rollback_command(session: Session, name: str, db: Path | None) -> None:
    """Point the alias at the control again, and store the report as evidence on all variants."""
    from ftreg.serving.report import make_report

    history = _history(name, db)
    report = make_report(history)
    refs = [variant.ref for variant in history.deployment.variants]
    _decide(session, history, report, "roll back", report.control, refs, forced=False)


def _decide(
    session: Session, history: History, report: Report, action: str, target: str, refs: list[str], *, forced: bool
) -> None:
    """Store the report as evidence on ``refs`` and move the alias to ``target``; if one is missing, do nothing."""
    deployment = history.deployment
    versions = {ref: _find(session.registry, deployment.variant(ref), deployment.alias) for ref in refs}
    body = {"action": action, "ref": target, "alias": deployment.alias, "forced": forced, "report": asdict(report)}
    for digest in dict.fromkeys(version.digest for version in versions.values()):
        session.registry.add_evidence(digest, "experiment", body)
    moved = session.registry.set_alias(versions[target].ref, deployment.alias)
    session.progress.say(f"{moved.name}@{deployment.alias} is {moved.ref}" + (", by force" if forced else ""))
    session.progress.say("running servers keep their weights; ftreg experiment set changes them")


def _find(registry: Registry, variant: Variant, alias: str) -> Version:
    """The version that ``variant`` served, under its own name if it still has it; raise where it is not there."""
    try:
        version = registry.get(variant.ref)
        if version.digest == variant.digest:
            return version
    except UnknownName:
        pass
    try:
        version = registry.get(variant.digest)
        return registry.get(version.ref)  # a deleted version is found by digest alone
    except UnknownName:
        raise InputError(
            f"{variant.ref} ({variant.digest[:15]}) is not in this registry",
            where=str(registry.home),
            hint=f"Choose the registry with --home, or move the alias by hand: ftreg models alias REF {alias}",
        ) from None


def _history(name: str, db: Path | None) -> History:
    """The record of the deployment ``name``."""
    from ftreg.serving.deployment import state_folder
    from ftreg.serving.history import read

    folder = state_folder(check_name(name))
    path = db or folder / "experiment.db"
    if db is None and not path.is_file():
        known = [found.parent.name for found in folder.parent.glob("*/experiment.db")]
        hint = "Its server makes the record; if that is elsewhere, give it with --db."
        raise UnknownName("deployment with a record", name, known, where=str(path), hint=None if known else hint)
    history = read(path)
    if history.deployment.name != name:
        raise InputError(f"is the record of {history.deployment.name}, not of {name}", where=str(path))
    return history
