"""The reference of the command line: the help of every command."""

from __future__ import annotations

from collections.abc import Iterator

import click

from ftreg.cli.commands import COMMANDS
from ftreg.cli.main import cli
from ftreg.cli.session import Session
from ftreg.core.host import PluginHost

WIDTH = 100


def all_commands() -> str:
    """A list of the commands, and the help of each."""
    session = Session()
    session.host = PluginHost(only=(), commands=COMMANDS)
    root = click.Context(cli, info_name="ftreg", obj=session, **cli.context_settings)
    listed = [f"- [`ftreg {name}`](#ftreg-{name}): {summary}" for name, (_, summary) in COMMANDS.items()]
    return "\n\n".join(["\n".join(listed), *_help(root, "##")])


def _help(context: click.Context, heading: str) -> Iterator[str]:
    """The help of a command, and of those below it, each under its heading."""
    context.terminal_width = WIDTH
    yield f"{heading} {context.command_path}\n\n```text\n{context.get_help().strip()}\n```"
    if isinstance(context.command, click.Group):
        below = heading if context.parent is None else f"{heading}#"
        for name in context.command.list_commands(context):
            command = context.command.get_command(context, name)
            if command is not None:
                yield from _help(click.Context(command, info_name=name, parent=context), below)
