"""``ftreg settings``: what ``--set`` can change."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from ftreg.cli.command import Command
from ftreg.cli.completion import complete_names
from ftreg.cli.session import Session, json_option

if TYPE_CHECKING:
    from ftreg.api.settings import Setting


@click.command(
    cls=Command,
    examples=["ftreg settings train", "ftreg settings lora", "ftreg settings rouge --json"],
)
@click.argument("name", shell_complete=complete_names)
@json_option
@click.pass_obj
def command(session: Session, name: str, as_json: bool) -> None:
    """List the settings of NAME, which --set and recipes can change.

    NAME is a method, a step, a metric, a section of a recipe (data, train, distillation), init, or deployment.
    """
    from ftreg.api.settings import settings

    found = settings(name, session.host)
    if as_json:
        session.json([asdict(setting) for setting in found])
    elif not found:
        session.progress.say(f"{name} has no settings")
    else:
        show_settings(session, found)


def show_settings(session: Session, found: Sequence[Setting]) -> None:
    """Print settings as a table."""
    session.table(
        ["setting", "type", "default", "what it does"],
        [[one.key, one.type, "(required)" if one.default is None else one.default, one.description] for one in found],
    )
