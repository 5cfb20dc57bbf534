"""``ftreg run``: a whole recipe, training and the steps after it."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from ftreg.cli.command import Command
from ftreg.cli.options import set_option, show_versions, version_facts
from ftreg.cli.session import Session, json_option
from ftreg.cli.train import show_figures, show_preview


@click.command(
    cls=Command,
    settings=["ftreg settings train", "ftreg settings data", "ftreg settings lora    (or another method)"],
    examples=["ftreg run recipe.yaml --dry-run", "ftreg run recipe.yaml --set train.epochs=3"],
)
@click.argument("recipe", type=click.Path(path_type=Path))
@set_option
@click.option("--dry-run", is_flag=True, help="Check everything and print what would be done.")
@click.option("--resume", is_flag=True, help="Resume from the last checkpoint of the interrupted training.")
@click.option("--accept", is_flag=True, help="Publish results that are further from their source than allowed.")
@json_option
@click.pass_obj
def command(
    session: Session, /, recipe: Path, settings: dict[str, Any], dry_run: bool, as_json: bool, **options: Any
) -> None:
    """Run a RECIPE: train, then apply its steps.

    The whole recipe is checked before anything starts. Work that was done before with the same inputs and settings is
    reused, so running a recipe again after a failure continues where it stopped.
    """
    from ftreg.api import training

    if dry_run:
        show_preview(session, training.preview(recipe, settings=settings, **session.api_arguments), as_json=as_json)
        return
    versions = training.run(recipe, settings=settings, **options, **session.api_arguments)
    figures = training.training_figures(versions[0].ref, registry=session.registry)
    if as_json:
        trained, *others = [version_facts(session, version) for version in versions]
        trained["training"] = asdict(figures) if figures else None
        session.json([trained, *others] if others else trained)
        return
    show_versions(session, versions, as_json=False)
    if figures is not None:
        show_figures(session, figures)
