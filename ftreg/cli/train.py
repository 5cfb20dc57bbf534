"""``ftreg train``: fine-tune a base model and register the result."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ftreg.cli.options import column_option, set_option, show_versions
from ftreg.cli.session import Session, json_option
from ftreg.core.errors import InputError

if TYPE_CHECKING:
    from ftreg.pipeline.plan import Plan


@click.command()
@click.argument("recipe", required=False, type=click.Path(path_type=Path))
@click.option("--base", help="Base model: a registry reference, a folder, or hf:org/name[@revision].")
@click.option("--data", help="Training data: a file, or a dataset in the registry.")
@column_option
@click.option("--method", help="Training method, such as full, lora, qlora or prefix.")
@click.option("--name", help="Name of the result.")
@set_option
@click.option("--dry-run", is_flag=True, help="Check everything and say what would be done.")
@click.option("--resume", is_flag=True, help="Go on from the last checkpoint of the same run.")
@json_option
@click.pass_obj
def command(
    session: Session,
    /,
    recipe: Path | None,
    columns: dict[str, str],
    settings: dict[str, str],
    dry_run: bool,
    resume: bool,
    as_json: bool,
    **flags: str | None,
) -> None:
    """Fine-tune a base model and register the result.

    Everything can come from a RECIPE file, from flags, or from both; flags win. The steps under `then:` are left to
    `ftreg run`.
    """
    from ftreg.pipeline.training import train

    space = session.context
    mapping = {f"data.columns.{field}": json.dumps(column, ensure_ascii=False) for field, column in columns.items()}
    plan = read_plan(session, recipe, flags, {**mapping, **settings})
    if dry_run:
        show_plan(session, plan, as_json=as_json)
        return
    show_versions(session, [train(space, plan, resume=resume)], as_json=as_json)


def read_plan(session: Session, recipe: Path | None, flags: dict[str, str | None], settings: dict[str, str]) -> Plan:
    """The checked plan that a recipe file, the flags and the settings add up to."""
    from ftreg.api import load_recipe
    from ftreg.pipeline.plan import make_plan

    given = {("data.path" if flag == "data" else flag): value for flag, value in flags.items() if value is not None}
    if recipe is None:
        missing = [f"--{flag}" for flag, value in flags.items() if value is None]
        if missing:
            raise InputError(f"{', '.join(missing)} missing", where="ftreg train", hint="Give them, or a RECIPE file.")
    loaded = load_recipe(recipe if recipe is not None else {}, {**given, **settings})
    return make_plan(session.host, loaded, where=str(recipe or "recipe"))


def show_plan(session: Session, plan: Plan, *, as_json: bool) -> None:
    """Print what a plan would do, after checking that its inputs are there."""
    from ftreg.pipeline.preview import preview

    facts = preview(session.context, plan)
    if as_json:
        session.json(facts)
        return
    session.table(["", "dry run: nothing is changed"], [[key, _cell(value)] for key, value in facts.items()])


def _cell(value: Any) -> str:
    if isinstance(value, dict):
        return "  ".join(f"{key}={item}" for key, item in value.items() if item is not None)
    return "\n".join(map(str, value)) if isinstance(value, list) else str(value)
