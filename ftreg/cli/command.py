"""Commands and groups: help that ends with examples, and errors that name options."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import click
from click.core import ParameterSource

from ftreg.core.errors import FtregError, UnknownName

_ARGUMENT = re.compile(r"`(\w+)(?:=\w+)?`")


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
        """Run the command; an error that speaks of a Python argument is made to speak of the option."""
        try:
            return super().invoke(ctx)
        except FtregError as error:
            speak_of_options(error, ctx)
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


def speak_of_options(error: FtregError, ctx: click.Context) -> None:
    """Make an error of ``ftreg.api`` name this command's options in the place of Python's arguments.

    ``where="split"`` becomes ``--split``, and `` `data` `` or `` `merge=True` `` in a message or hint become ``--data``
    and ``--merge``. The parameters of commands are called as the functions' arguments for this reason.
    """
    contexts = (ctx.find_root(), ctx)
    flags = {param.name: _flag(param) for one in contexts for param in one.command.params if param.name}
    name, colon, rest = (error.where or "").partition(": ")
    # What a recipe says has the same names as options: only what was typed becomes an option then.
    typed = ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE
    if name in flags and (typed or not ctx.params.get("recipe")):
        error.where = f"{flags[name]}{' ' if colon else ''}{rest}"
    error.message = _replace(error.message, flags)
    error.hint = error.hint and _replace(error.hint, flags)


def _replace(text: str, flags: dict[str, str]) -> str:
    return _ARGUMENT.sub(lambda found: flags.get(found[1], found[0]), text)


def _flag(param: click.Parameter) -> str:
    """How a parameter is typed: ``--split``, or ``REF`` for an argument."""
    if isinstance(param, click.Argument):
        return param.human_readable_name
    return next((opt for opt in param.opts if opt.startswith("--")), param.opts[0])
