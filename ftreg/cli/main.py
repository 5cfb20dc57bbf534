"""The ``ftreg`` command: global options, and commands that are imported when they are used."""

from __future__ import annotations

import sys

import click

from ftreg import __version__
from ftreg.cli.command import Group
from ftreg.cli.commands import COMMANDS
from ftreg.cli.session import Session
from ftreg.cli.wording import speak_of_commands
from ftreg.core.errors import FtregError
from ftreg.core.guard import resolve_import
from ftreg.core.signals import Terminated, raising_when_terminated
from ftreg.core.specs import CommandSpec


class LazyGroup(Group):
    """A group whose commands, built in or from plugins, are imported only when one of them is run."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the built-in commands in the order of use, then those of plugins."""
        return [*COMMANDS, *sorted(set(self._from_plugins(ctx)) - set(COMMANDS))]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import one command; return None if there is none of that name."""
        if cmd_name in COMMANDS:
            found: click.Command = resolve_import(COMMANDS[cmd_name][0])
            return found
        spec = self._from_plugins(ctx).get(cmd_name)
        return _load_command(_session(ctx), spec) if spec else None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands from the table and the plugins' summaries."""
        plugins = self._from_plugins(ctx)
        rows = [
            (name, COMMANDS[name][1] if name in COMMANDS else plugins[name].summary) for name in self.list_commands(ctx)
        ]
        with formatter.section("Commands"):
            formatter.write_dl(rows)

    def _from_plugins(self, ctx: click.Context) -> dict[str, CommandSpec]:
        return {spec.name: spec for spec in _session(ctx).host.specs(CommandSpec)}


def _session(ctx: click.Context) -> Session:
    session: Session = ctx.ensure_object(Session)
    return session


def _load_command(session: Session, spec: CommandSpec) -> click.Command:
    """Import a plugin's command, and note that it is the plugin's code that runs from now on."""
    found = session.host.load(spec)
    if not isinstance(found, click.Command):
        raise session.host.broken(spec, f"{spec.impl} is a {type(found).__name__}, not a click.Command")
    session.plugin_command = spec
    return found


def _leave_out(ctx: click.Context, _: click.Parameter, names: tuple[str, ...]) -> None:
    """Note ``--no-plugin`` before ``--help`` asks the plugins for their commands."""
    session = _session(ctx)
    session.disabled_plugins = names or session.disabled_plugins


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="ftreg")
@click.option("--home", metavar="DIR", help="Registry to use instead of $FTREG_HOME.")
@click.option(
    "--no-plugin",
    "disabled",
    metavar="NAME",
    multiple=True,
    is_eager=True,
    expose_value=False,
    callback=_leave_out,
    help="Leave a plugin out; can be repeated.",
)
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
@click.pass_context
def cli(ctx: click.Context, home: str | None, debug: bool) -> None:
    """Fine-tune, register, ship: from data to a deployed model, with every step on record."""
    session = _session(ctx)
    session.home = home or session.home
    session.debug = debug


def main(arguments: list[str] | None = None) -> None:
    """Run ``ftreg`` and exit.

    The exit code is 0 for done, 1 if the work failed, 2 for bad usage or input, and 128 plus the signal's number after
    Ctrl-C (130), SIGTERM (143) and SIGHUP (129).
    """
    session = Session()
    try:
        # A command that calls ctx.exit(code) returns the code here; all others return None.
        with raising_when_terminated():
            code = cli.main(arguments, prog_name="ftreg", standalone_mode=False, obj=session)
        sys.exit(code if isinstance(code, int) else 0)
    except click.ClickException as error:
        path = error.ctx.command_path if isinstance(error, click.UsageError) and error.ctx else "ftreg"
        session.fail(f"{error.format_message()}\n  See: {path} --help")
        sys.exit(2)
    except (KeyboardInterrupt, click.Abort) as error:  # click turns the former into the latter
        cause = error.__cause__ or error
        session.fail(f"{'terminated' if isinstance(cause, Terminated) else 'interrupted'}; {session.outcome}")
        sys.exit(cause.exit_code if isinstance(cause, Terminated) else 130)
    except BrokenPipeError:
        sys.exit(1)
    except Exception as error:
        known = session.explain(error)
        if session.debug:
            raise
        if isinstance(known, FtregError):
            speak_of_commands(known, click.Context(cli))
        session.fail(str(known))
        sys.exit(known.exit_code if isinstance(known, FtregError) else 1)
