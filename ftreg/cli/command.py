"""Commands and groups: help that ends with examples, and errors that speak of commands."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click

from ftreg.cli.wording import speak_of_commands
from ftreg.core.errors import FtregError, UnknownName


class Command(click.Command):
    """A command of ftreg.

    Args:
        *args: As for ``click.Command``.
        examples: Command lines that work, which the help shows.
        settings: The command lines that list what ``--set`` can change.
        **kwargs: As for ``click.Command``.
    """

    def __init__(self, *args: Any, examples: Sequence[str] = (), settings: Sequence[str] = (), **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.examples = tuple(examples)
        self.settings = tuple(settings)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write where the settings are listed, and the examples."""
        super().format_epilog(ctx, formatter)
        for title, lines in (("Settings are listed by", self.settings), ("Examples", self.examples)):
            if lines:
                with formatter.section(title):
                    formatter.write("".join(f"{' ' * formatter.current_indent}{line}\n" for line in lines))

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; an error that speaks of Python is made to speak of commands and options."""
        try:
            return super().invoke(ctx)
        except FtregError as error:
            speak_of_commands(error, ctx)
            raise


class Group(click.Group):
    """A group of commands: alone it shows its help, and an unknown command gets the nearest ones."""

    command_class = Command

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Show the help, with exit code 0, if no command is given."""
        if not args and not ctx.resilient_parsing:
            click.echo(ctx.get_help())
            ctx.exit()
        return super().parse_args(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands with the whole first sentence of their help."""
        commands = [(name, self.get_command(ctx, name)) for name in self.list_commands(ctx)]
        with formatter.section("Commands"):
            formatter.write_dl([(name, found.get_short_help_str(limit=1000)) for name, found in commands if found])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command to run; raise ``UnknownName`` with the nearest ones if there is none of that name."""
        if args and not args[0].startswith("-") and not ctx.resilient_parsing:
            known = self.list_commands(ctx)
            if args[0] not in known:
                raise UnknownName("command", args[0], known, hint=f"See: {ctx.command_path} --help")
        return super().resolve_command(ctx, args)
