"""``ftreg verify`` and ``ftreg gc``: check the registry's files, and free those that nothing needs."""

from __future__ import annotations

import re
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from ftreg.cli.command import Command
from ftreg.cli.completion import complete_refs
from ftreg.cli.session import Session, human_size, json_option, moment
from ftreg.cli.wording import in_commands

if TYPE_CHECKING:
    from ftreg.registry import GcReport

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


class Duration(click.ParamType[float]):
    """A parameter type for seconds, given as ``90``, ``30m``, ``12h`` or ``7d``."""

    name = "duration"

    def convert(self, value: str | float, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return the seconds; fail with click's usage error for a text that is not a duration."""
        found = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd]?)", str(value))
        if found is None:
            self.fail(f"{value!r} is not a duration; write 90, 30m, 12h or 7d.", param, ctx)
        return float(found[1]) * _SECONDS[found[2] or "s"]


@click.command(cls=Command, examples=["ftreg verify", "ftreg verify support-bot:2", "ftreg verify --quick"])
@click.argument("ref", required=False, shell_complete=complete_refs)
@click.option("--quick", is_flag=True, help="Compare sizes and timestamps only; hash what has changed.")
@click.option("--rebuild", is_flag=True, help="First rebuild the catalog from the manifests and the event log.")
@json_option
@click.pass_obj
def verify(session: Session, ref: str | None, quick: bool, rebuild: bool, as_json: bool) -> None:
    """Check that files are complete and unchanged: those of all versions, or of REF and what it was made from.

    Every byte is read and hashed. The exit code is 1 if anything is damaged.
    """
    if rebuild:
        _rebuild(session)
    report = session.registry.verify(ref, quick=quick, progress=session.progress)
    if as_json:
        session.json(asdict(report) | {"ok": report.ok})
    else:
        for damage in report.damages:
            session.print(f"{damage.where}\n  {damage.problem}\n  {in_commands(damage.hint)}")
        looked = "looked at" if quick else "hashed"
        verdict = "no damage" if report.ok else f"{len(report.damages)} damaged"
        counts = f"{report.versions} versions, {report.files} files, {human_size(report.size)} {looked}"
        if report.rebuildable:
            counts += f", {report.rebuildable} versions rebuildable"
        session.print(f"{counts}: {verdict}")
    if not report.ok:
        sys.exit(1)


def _rebuild(session: Session) -> None:
    from ftreg.registry import Registry

    rebuilt = Registry.rebuild(session.home)
    session.progress.say(f"the catalog was rebuilt from {rebuilt.events} events: {rebuilt.versions} versions")
    for lost in rebuilt.lost:
        session.progress.say(f"{lost} is lost: its manifest is missing or damaged")


@click.command(
    cls=Command, examples=["ftreg gc --dry-run", "ftreg gc --grace 7d --runs", "ftreg gc --rebuildable --dry-run"]
)
@click.option(
    "--rebuildable", is_flag=True, help="Give up the files of versions that can be made again too; see below."
)
@click.option("--runs", is_flag=True, help="Free the checkpoints of unfinished trainings too, which ends --resume.")
@click.option("--dry-run", is_flag=True, help="Only print what would be freed.")
@click.option("--grace", type=Duration(), default="1h", show_default=True, help="Keep newer files; such as 30m or 7d.")
@json_option
@click.pass_obj
def gc(session: Session, rebuildable: bool, runs: bool, dry_run: bool, grace: float, as_json: bool) -> None:
    """Free the files that no version needs, and what killed processes left behind.

    The files of a version, of the versions that it was made from, and their evidence are kept. So are the checkpoints
    of a training that did not finish, unless --runs is given.

    With --rebuildable, the files of each version whose newest replay was bit-exact are given up, unless an alias points
    to it, the replay is newer than --grace, or other packages are installed now. What opens such a version makes its
    files again, and checks them.
    """
    from ftreg.api import upkeep

    cleanup = upkeep.gc(rebuildable=rebuildable, grace=grace, runs=runs, dry_run=dry_run, **session.api_arguments)
    report = cleanup.report
    if as_json:
        session.json(asdict(report) | {"evicted": [asdict(each) for each in cleanup.evicted]})
        return
    for each in cleanup.evicted:
        session.print(f"{'would give up' if dry_run else 'gave up'} {human_size(each.size)} of {each.ref}")
    session.print(_summary(report))
    fates = [(run, "would be freed" if dry_run else "freed") for run in report.runs]
    fates += [(run, "kept") for run in report.kept_runs]
    if fates:
        session.print("")
        session.table(
            ["training", "state", "size", "last written (UTC)", "checkpoints", "folder"],
            [[run.name, run.state, human_size(run.size), moment(run.written), fate, run.folder] for run, fate in fates],
            right=["size"],
            optional=["folder"],
        )
    if any(run.state == "unfinished" for run in report.kept_runs):
        session.print(
            "To continue an unfinished training, add --resume to its command. To give it up: ftreg gc --runs, which "
            "frees what was not written to within the grace period."
        )


def _summary(report: GcReport) -> str:
    verb = "would free" if report.dry_run else "freed"
    left = f", {report.staging} abandoned staging folders" if report.staging else ""
    left += f", checkpoints of {len(report.runs)} trainings" if report.runs else ""
    text = f"{verb} {human_size(report.size)}: {report.manifests} versions, {report.blobs} files{left}"
    if report.waiting:
        text += f"\n{human_size(report.waiting)} more when it is older than the grace period (--grace 0 frees it now)"
    return text
