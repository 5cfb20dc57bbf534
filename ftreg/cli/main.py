"""The ``ftreg`` command: global options, and a table of commands that are imported when they are used."""

from __future__ import annotations

import sys
from typing import Any

import click

from ftreg import __version__
from ftreg.cli.session import Session
from ftreg.core.errors import FtregError
from ftreg.core.host import resolve_import
from ftreg.core.specs import CommandSpec

# name -> (import string, the line that `ftreg --help` shows). The line stands here so that help imports no command.
COMMANDS: dict[str, tuple[str, str]] = {
    "quickstart": ("ftreg.cli.quickstart:command", "Run the whole chain, offline, on a tiny model."),
    "init": ("ftreg.cli.init:command", "Create an untrained base model with a tokenizer of its own."),
    "data": ("ftreg.cli.data:command", "Check, summarize and preview training data."),
    "train": ("ftreg.cli.train:command", "Fine-tune a base model and register the result."),
    "run": ("ftreg.cli.run:command", "Run a recipe: train, then its steps; finished ones are reused."),
    "merge": ("ftreg.cli.steps:merge", "Merge an adapter into its base model."),
    "quantize": ("ftreg.cli.steps:quantize", "Store weights in fewer bits."),
    "prune": ("ftreg.cli.steps:prune", "Set the least important weights to zero."),
    "export": ("ftreg.cli.steps:export", "Export to ONNX, or copy a version's files to a folder."),
    "apply": ("ftreg.cli.steps:apply", "Apply any step, a plugin's too, to a version."),
    "eval": ("ftreg.cli.evaluate:evaluate", "Measure a version on held-out data."),
    "compare": ("ftreg.cli.evaluate:compare", "Measure several versions side by side."),
    "models": ("ftreg.cli.models:command", "List, show, tag, alias and delete versions."),
    "lineage": ("ftreg.cli.lineage:command", "Show what a version was made from, and what was made from it."),
    "verify": ("ftreg.cli.upkeep:verify", "Check that the registry holds what it says."),
    "gc": ("ftreg.cli.upkeep:gc", "Free the bytes that nothing refers to."),
    "plugins": ("ftreg.cli.plugins:command", "List plugins and what they bring."),
}


class LazyGroup(click.Group):
    """A group whose commands, built in or from plugins, are imported only when one of them is run."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The built-in commands in the order of use, then those of plugins."""
        return [*COMMANDS, *sorted(set(self._from_plugins(ctx)) - set(COMMANDS))]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import one command; None where there is none of that name."""
        if cmd_name in COMMANDS:
            return _command(resolve_import(COMMANDS[cmd_name][0]))
        spec = self._from_plugins(ctx).get(cmd_name)
        return _command(ctx.find_object(Session).host.load(spec)) if spec else None  # type: ignore[union-attr]

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command to run; a name that is none's gets the nearest ones."""
        if args and not args[0].startswith("-") and self.get_command(ctx, args[0]) is None:
            from ftreg.core.errors import UnknownName

            raise UnknownName("command", args[0], self.list_commands(ctx))
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands from the table and the plugins' summaries."""
        plugins = self._from_plugins(ctx)
        rows = [
            (name, COMMANDS[name][1] if name in COMMANDS else plugins[name].summary) for name in self.list_commands(ctx)
        ]
        with formatter.section("Commands"):
            formatter.write_dl(rows)

    def _from_plugins(self, ctx: click.Context) -> dict[str, CommandSpec]:
        session = ctx.find_object(Session) or Session()
        return {spec.name: spec for spec in session.host.specs(CommandSpec)}


def _command(found: Any) -> click.Command:
    assert isinstance(found, click.Command)
    return found


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="ftreg")
@click.option("--home", metavar="DIR", help="Registry to use instead of $FTREG_HOME.")
@click.option("--no-plugin", metavar="NAME", multiple=True, help="Leave a plugin out; may be given again.")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
@click.pass_context
def cli(ctx: click.Context, home: str | None, no_plugin: tuple[str, ...], debug: bool) -> None:
    """Fine-tune, register, ship: from data to a deployed model, with every step on record."""
    session: Session = ctx.ensure_object(Session)
    session.home = home or session.home
    session.disabled_plugins = no_plugin or session.disabled_plugins
    session.debug = debug


def main(arguments: list[str] | None = None) -> None:
    """Run ``ftreg`` and exit: 0 done, 1 the work failed, 2 bad usage or input, 130 interrupted."""
    session = Session()
    try:
        cli.main(arguments, prog_name="ftreg", standalone_mode=False, obj=session)
    except click.exceptions.Exit as error:
        sys.exit(error.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(2)
    except (KeyboardInterrupt, click.Abort):
        session.fail("interrupted; nothing was published")
        sys.exit(130)
    except BrokenPipeError:
        sys.exit(1)
    except Exception as error:
        known = session.explain(error)
        if session.debug:
            raise
        session.fail(str(known))
        sys.exit(known.exit_code if isinstance(known, FtregError) else 1)
