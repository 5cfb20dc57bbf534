"""``ftreg run``: a whole recipe, training and the steps after it."""

from __future__ import annotations

from pathlib import Path

import click

from ftreg.cli.options import set_option, show_versions
from ftreg.cli.session import Session, json_option
from ftreg.cli.train import read_plan, show_plan


@click.command()
@click.argument("recipe", type=click.Path(path_type=Path))
@set_option
@click.option("--dry-run", is_flag=True, help="Check everything and say what would be done.")
@click.option("--resume", is_flag=True, help="Go on from the last checkpoint of the interrupted training.")
@click.option("--accept", is_flag=True, help="Publish results that are further from their source than allowed.")
@json_option
@click.pass_obj
def command(
    session: Session,
    recipe: Path,
    settings: dict[str, str],
    dry_run: bool,
    resume: bool,
    accept: bool,
    as_json: bool,
) -> None:
    """Run a RECIPE: train, then apply its steps.

    The whole recipe is checked before anything starts. What was done before, with the same inputs and settings, is
    reused: running again after a failure goes on where it stopped.
    """
    from ftreg.pipeline.recipes import run_plan

    plan = read_plan(session, recipe, {}, settings)
    if dry_run:
        show_plan(session, plan, as_json=as_json)
        return
    versions = run_plan(session.context, plan, resume=resume, accept=accept)
    show_versions(session, versions, as_json=as_json)
