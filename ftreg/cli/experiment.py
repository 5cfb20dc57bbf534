"""``ftreg experiment``: watch an experiment, change its weights, and act on what it has found."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from ftreg.cli.options import read_weights
from ftreg.cli.session import Session, json_option
from ftreg.core.errors import FtregError, InputError, UnknownName
from ftreg.core.names import check_name, parse_ref

if TYPE_CHECKING:
    from ftreg.core.types import Version
    from ftreg.registry import Registry
    from ftreg.serving.deployment import Deployment, Variant
    from ftreg.serving.experiment.history import History
    from ftreg.serving.experiment.report import Report

CommandT = TypeVar("CommandT", bound=Callable[..., Any])

SERVER = "http://127.0.0.1:3000"


def record_options(command: CommandT) -> CommandT:
    """Add ``--experiment`` and ``--db``, passed on as ``experiment`` and ``db``."""
    command = click.option(
        "--db", type=click.Path(path_type=Path), help="The record, if it is not where this machine's servers keep it."
    )(command)
    return click.option(
        "--experiment", metavar="ID|NAME",
        help="An experiment of the record, by its id, the id's beginning, or its name; by default the last served.",
    )(command)  # fmt: skip


@click.group()
def command() -> None:
    """Watch the experiment of the deployment NAME, change its weights, and act on what it has found.

    The record is experiment.db in the state folder of the deployment's servers. It keeps all experiments of NAME.
    """


@command.command("status")
@click.argument("name")
@record_options
@json_option
@click.pass_obj
def status_command(session: Session, name: str, experiment: str | None, db: Path | None, as_json: bool) -> None:
    """Show weights, split and requests, and the other experiments of the record."""
    facts = _status(_history(name, experiment, db))
    if as_json:
        session.json(facts)
        return
    from ftreg.cli.experiment_tables import show_status

    show_status(session, facts)


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
        "others": [asdict(other) for other in history.others],
    }


@command.command("report")
@click.argument("name")
@record_options
@json_option
@click.pass_obj
def report_command(session: Session, name: str, experiment: str | None, db: Path | None, as_json: bool) -> None:
    """Show the figures of the variants, what may be concluded from them, and a verdict.

    It may be looked at as often as one likes: the intervals hold at all times together.
    """
    from ftreg.serving.experiment.report import make_report

    report = make_report(_history(name, experiment, db))
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

    answer = put_weights(url, token or _stored_token(name), name, read_weights(weights, where="REF=WEIGHT"))
    if as_json:
        session.json(answer)
        return
    session.table(
        ["version", "weight", "share"],
        [[ref, f"{weight:g}", f"{answer['shares'][ref]:.1%}"] for ref, weight in answer["weights"].items()],
        right=["weight", "share"],
    )


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
@record_options
@click.pass_obj
def promote_command(
    session: Session, name: str, ref: str | None, force: bool, experiment: str | None, db: Path | None
) -> None:
    """Point the alias at the challenger that has won, and store the report as evidence on it and on the control."""
    from ftreg.serving.experiment.report import make_report

    history = _history(name, experiment, db)
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
@record_options
@click.pass_obj
def rollback_command(session: Session, name: str, experiment: str | None, db: Path | None) -> None:
    """Point the alias at the control again, and store the report as evidence on all variants."""
    from ftreg.serving.experiment.report import make_report

    history = _history(name, experiment, db)
    report = make_report(history)
    refs = [variant.ref for variant in history.deployment.variants]
    _decide(session, history, report, "roll back", report.control, refs, forced=False)


def _decide(
    session: Session, history: History, report: Report, decision: str, target: str, refs: list[str], *, forced: bool
) -> None:
    """Store the report as evidence on ``refs`` and move the alias to ``target``; if one is missing, do nothing.

    Gates may ask for the evidence, so that it goes first: it says what was decided, and not that the alias has moved.
    """
    registry, alias = session.registry, history.deployment.alias
    versions = {ref: _find(registry, history.deployment.variant(ref), alias) for ref in refs}
    holders = list(_with_alias(registry, history.deployment, [version.name for version in versions.values()]))
    body = {"decision": decision, "ref": target, "alias": alias, "forced": forced, "report": asdict(report)}
    for digest in dict.fromkeys(version.digest for version in versions.values()):
        registry.add_evidence(digest, "experiment", body)
    moved = registry.set_alias(versions[target].ref, alias)
    session.progress.say(f"{moved.name}@{alias} is {moved.ref}" + (", by force" if forced else ""))
    for holder in holders:
        if holder.name != moved.name:  # an alias belongs to a name, so that it has not moved away from there
            registry.remove_alias(holder.name, alias)
            session.progress.say(f"{holder.name}@{alias} was {holder.ref}, and is removed")
    session.progress.say("running servers keep their weights; ftreg experiment set changes them")


def _with_alias(registry: Registry, deployment: Deployment, names: Iterable[str]) -> Iterator[Version]:
    """The deployment's variants that have its alias, under their own name or one of ``names``."""
    own = [parse_ref(variant.ref).name for variant in deployment.variants]
    for name in sorted({*names, *filter(None, own)}):
        with suppress(UnknownName):
            version = registry.get(f"{name}@{deployment.alias}")
            if version.digest in {variant.digest for variant in deployment.variants}:
                yield version


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


def _history(name: str, experiment: str | None, db: Path | None) -> History:
    """What is on record of an experiment of the deployment ``name``; by default of the one that was served last."""
    from ftreg.serving.deployment import state_folder
    from ftreg.serving.experiment.history import read

    folder = state_folder(check_name(name))
    path = db or folder / "experiment.db"
    if db is None and not path.is_file():
        known = [found.parent.name for found in folder.parent.glob("*/experiment.db")]
        hint = "Its server makes the record; if that is elsewhere, give it with --db."
        raise UnknownName("deployment with a record", name, known, where=str(path), hint=None if known else hint)
    history = read(path, experiment)
    if history.deployment.name != name:
        raise InputError(f"is the record of {history.deployment.name}, not of {name}", where=str(path))
    return history
