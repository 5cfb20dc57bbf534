"""Progress on the console: a bar on a terminal, a line every 15 seconds in a log."""

from __future__ import annotations

import time

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)

from ftreg.cli.wording import in_commands

_SECONDS_BETWEEN_LINES = 15.0


class ConsoleProgress:
    """The ``Progress`` of the command line: draws what long-running work reports."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bar: Progress | None = None
        self._task = TaskID(0)
        self._what = ""
        self._total: int | None = None
        self._last_line = 0.0

    def begin(self, what: str, total: int | None = None, unit: str = "steps") -> None:
        """Start a bar; without a terminal, ``update`` prints lines instead."""
        self.end()
        self._what, self._total, self._last_line = what, total, time.monotonic()
        if self._console.is_terminal:
            self._bar = Progress(
                SpinnerColumn(),
                TextColumn("{task.description}"),
                BarColumn(bar_width=24),
                MofNCompleteColumn(),
                TextColumn(unit),
                TimeRemainingColumn(),
                TextColumn("{task.fields[facts]}", style="dim"),
                console=self._console,
                transient=True,
            )
            self._bar.start()
            self._task = self._bar.add_task(escape(what), total=total, facts="")

    def update(self, done: int, **facts: float | str) -> None:
        """Move the bar; without a terminal, print a line if the last one is 15 seconds old."""
        shown = "  ".join(f"{name} {_short(value)}" for name, value in facts.items())
        if self._bar:
            self._bar.update(self._task, completed=done)
            if facts:
                self._bar.update(self._task, facts=shown)
        elif time.monotonic() - self._last_line > _SECONDS_BETWEEN_LINES:
            self._last_line = time.monotonic()
            of = f"/{self._total}" if self._total else ""
            self.say(f"{self._what}: {done}{of}  {shown}")

    def end(self) -> None:
        """Remove the bar."""
        if self._bar:
            self._bar.stop()
            self._bar = None

    def say(self, message: str) -> None:
        """Write a line above the bar; what it says of Python, in the words of the command line."""
        self._console.print(escape(in_commands(message)), style="dim")


def _short(value: float | str) -> str:
    if isinstance(value, str):
        return value
    return f"{value:,.0f}" if abs(value) >= 1000 or value == int(value) else f"{value:.3g}"
