"""The session of one run of the command line: its plugins, its registry, and how it prints."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from ftreg.cli.commands import COMMANDS
from ftreg.core.errors import FtregError, PluginError
from ftreg.core.faults import fault_of
from ftreg.core.host import PluginHost
from ftreg.core.specs import CommandSpec

if TYPE_CHECKING:
    from rich.console import Console

    from ftreg.core.types import Progress
    from ftreg.registry import Registry

CommandT = TypeVar("CommandT", bound=Callable[..., Any])


class Session:
    """The state behind one command; commands get it with ``@click.pass_obj``."""

    def __init__(self) -> None:
        self.home: str | None = None
        self.disabled_plugins: tuple[str, ...] = ()
        self.debug = False
        self.plugin_command: CommandSpec | None = None
        self.no_outcome = "nothing was published"

    @cached_property
    def host(self) -> PluginHost:
        """The plugins that the environment and ``--no-plugin`` select."""
        return PluginHost.from_environment(self.disabled_plugins, commands=COMMANDS)

    @cached_property
    def registry(self) -> Registry:
        """The registry at ``--home``, ``$FTREG_HOME`` or the nearest ``.ftreg``."""
        from ftreg.registry import Registry

        return Registry(self.home, host=self.host)

    @cached_property
    def out(self) -> Console:
        """Standard output, for facts; plain text without colour or line breaks if it is not a terminal."""
        from rich.console import Console

        return Console(soft_wrap=not sys.stdout.isatty(), highlight=False)

    @property
    def width(self) -> int | None:
        """Characters that fit on a line of standard output; None if it is not a terminal."""
        return self.out.width if sys.stdout.isatty() else None

    @cached_property
    def err(self) -> Console:
        """Standard error, for progress, remarks and errors."""
        from rich.console import Console

        return Console(stderr=True, highlight=False, soft_wrap=not sys.stderr.isatty())

    @cached_property
    def progress(self) -> Progress:
        """Bars on a terminal, occasional lines elsewhere; always on standard error."""
        from ftreg.cli.progress import ConsoleProgress

        return ConsoleProgress(self.err)

    @property
    def api_arguments(self) -> dict[str, Any]:
        """The arguments of every function of ``ftreg.api``: the registry, and where to report progress."""
        return {"registry": self.registry, "progress": self.progress}

    @property
    def outcome(self) -> str:
        """What this run of the command line has added to the registry, for the message about an interruption."""
        registry: Registry | None = self.__dict__.get("registry")
        if registry is not None and registry.published:
            return f"published before that: {', '.join(registry.published)}"
        if registry is not None and registry.documented:
            return f"evidence recorded before that: {', '.join(registry.documented)}"
        return self.no_outcome

    def close(self) -> None:
        """Close the registry, if it was opened."""
        registry = self.__dict__.get("registry")
        if registry is not None:
            registry.close()

    def table(
        self,
        columns: Sequence[str],
        rows: Iterable[Sequence[Any]],
        *,
        right: Sequence[str] = (),
        optional: Sequence[str] = (),
    ) -> None:
        """Print a table, fitted to the terminal if there is one; arguments as for ``ftreg.cli.table.layout``."""
        from ftreg.cli.table import layout

        cells = [["" if cell is None else str(cell) for cell in row] for row in rows]
        table = layout(columns, cells, right=right, optional=optional, width=self.width)
        if table.header.strip():
            self.print(table.header, style="bold")
        for line in table.lines:
            self.print(line)
        if table.dropped:
            self.progress.say(f"columns that do not fit were left out: {', '.join(table.dropped)}; --json shows all")

    def print(self, text: str, style: str | None = None) -> None:
        """Print a line of facts unchanged: brackets are not markup, and nothing is wrapped or cut."""
        self.out.print(text, style=style, markup=False, soft_wrap=True)

    def json(self, value: Any) -> None:
        """Print facts as JSON."""
        click.echo(json.dumps(value, indent=2, ensure_ascii=False, default=str))

    def fail(self, message: str) -> None:
        """Print an error: the first line says what is wrong and where, the others what to do."""
        self.err.print(f"[bold red]error:[/] {_escape(message)}")

    def explain(self, error: Exception) -> Exception:
        """Turn what the system or a plugin raises (disk full, out of memory) into an error that says what to do."""
        fault = fault_of(error, Path(self.home or "."))
        if fault is not None:
            return fault
        if isinstance(error, FtregError) and not isinstance(error, PluginError):
            return error
        if isinstance(error, PluginError):
            known: FtregError = error
        elif self.plugin_command is not None:
            known = self.host.broken(self.plugin_command, f"it raised {type(error).__name__}: {error}")
        else:
            known = FtregError(f"{type(error).__name__}: {error}", hint="This is a bug in ftreg.")
        known.hint = f"{known.hint or ''} ftreg --debug shows where it happened.".strip()
        return known


def json_option(command: CommandT) -> CommandT:
    """Add ``--json``, passed on as ``as_json``."""
    return click.option("--json", "as_json", is_flag=True, help="Print the facts as JSON.")(command)


def human_size(size: float) -> str:
    """Format a number of bytes: ``1.5 MB``."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def moment(at: str) -> str:
    """Format a stored time to the second: ``2026-03-03 14:30:00``."""
    return at[:19].replace("T", " ")


def _escape(text: str) -> str:
    from rich.markup import escape

    return escape(text)
