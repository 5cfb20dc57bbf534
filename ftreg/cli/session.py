"""What one run of the command line shares: the plugin host, the registry, and how things are shown."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from ftreg.cli.commands import COMMANDS
from ftreg.core.errors import FtregError
from ftreg.core.faults import fault_of
from ftreg.core.host import PluginHost
from ftreg.core.specs import CommandSpec

if TYPE_CHECKING:
    from rich.console import Console

    from ftreg.context import Context
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

    @cached_property
    def host(self) -> PluginHost:
        """The plugin host, as the environment and ``--no-plugin`` ask for."""
        return PluginHost.from_environment(self.disabled_plugins, commands=COMMANDS)

    @cached_property
    def registry(self) -> Registry:
        """The registry at ``--home``, ``$FTREG_HOME`` or the nearest ``.ftreg``."""
        from ftreg.registry import Registry

        return Registry(self.home, host=self.host)

    @cached_property
    def out(self) -> Console:
        """Standard output: facts. Plain text without colour or width limits where it is no terminal."""
        from rich.console import Console

        return Console(soft_wrap=not sys.stdout.isatty(), highlight=False)

    @cached_property
    def err(self) -> Console:
        """Standard error: progress, remarks and errors."""
        from rich.console import Console

        return Console(stderr=True, highlight=False, soft_wrap=not sys.stderr.isatty())

    @cached_property
    def progress(self) -> Progress:
        """Bars on a terminal, a line now and then elsewhere; always on standard error."""
        from ftreg.cli.progress import ConsoleProgress

        return ConsoleProgress(self.err)

    @cached_property
    def context(self) -> Context:
        """What the functions of ``ftreg.api`` work with: the registry, its plugins, and the progress above."""
        from ftreg.context import Context

        return Context(self.registry, self.progress)

    def close(self) -> None:
        """Close the registry, if it was opened."""
        registry = self.__dict__.get("registry")
        if registry is not None:
            registry.close()

    def table(self, columns: Sequence[str], rows: Iterable[Sequence[Any]], *, right: Sequence[str] = ()) -> None:
        """Print a table, drawn on a terminal and plain elsewhere; ``right`` names columns aligned to the right."""
        cells = [["" if cell is None else str(cell) for cell in row] for row in rows]
        if not sys.stdout.isatty():
            click.echo(_plain_table(columns, cells, right))
            return
        from rich import box
        from rich.table import Table
        from rich.text import Text

        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
        for column in columns:
            table.add_column(column, justify="right" if column in right else "left")
        for row in cells:
            table.add_row(*map(Text, row))
        self.out.print(table)

    def json(self, value: Any) -> None:
        """Print facts as JSON, and nothing else."""
        click.echo(json.dumps(value, indent=2, ensure_ascii=False, default=str))

    def fail(self, message: str) -> None:
        """Print an error: its first line says what and where, the others what to do."""
        self.err.print(f"[bold red]error:[/] {_escape(message)}")

    def explain(self, error: Exception) -> Exception:
        """Turn what the system raises (disk full, out of memory) into an error that says what to do."""
        fault = fault_of(error, Path(self.home or "."))
        if fault is not None:
            return fault
        if isinstance(error, FtregError):
            return error
        if self.plugin_command is not None:
            return self.host.broken(self.plugin_command, f"it raised {type(error).__name__}: {error}")
        return FtregError(f"{type(error).__name__}: {error}", hint="This is a defect of ftreg; --debug shows where.")


def _plain_table(columns: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[str]) -> str:
    """A table as text: columns two spaces apart, a cell of several lines continued below itself."""
    lines = [
        columns,
        *(line for row in rows for line in zip_longest(*(cell.split("\n") for cell in row), fillvalue="")),
    ]
    widths = [max(len(line[index]) for line in lines) for index in range(len(columns))]
    aligned = [
        "  ".join(
            cell.rjust(width) if column in right else cell.ljust(width)
            for cell, width, column in zip(line, widths, columns, strict=True)
        ).rstrip()
        for line in lines
    ]
    return "\n".join(aligned)


def json_option(command: CommandT) -> CommandT:
    """Add ``--json``, passed on as ``as_json``."""
    return click.option("--json", "as_json", is_flag=True, help="Print the facts as JSON.")(command)


def human_size(size: float) -> str:
    """Bytes as people read them: ``1.5 MB``."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def _escape(text: str) -> str:
    from rich.markup import escape

    return escape(text)
