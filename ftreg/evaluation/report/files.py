"""Writes a report to a file, in the format that the file's ending names."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from ftreg.core.errors import InputError
from ftreg.core.types import Progress
from ftreg.evaluation.report.facts import Report
from ftreg.evaluation.report.html import as_html
from ftreg.evaluation.report.markdown import as_markdown
from ftreg.evaluation.report.plots import Plot, draw_plots

_WRITERS: Mapping[str, Callable[[Report, list[Plot]], str]] = {
    ".html": as_html,
    ".htm": as_html,
    ".md": lambda report, _: as_markdown(report),
}


def check_report_path(path: Path) -> None:
    """Raise ``InputError`` if no report can be written to ``path``, because of its ending or its folder."""
    if path.suffix.lower() not in _WRITERS:
        hint = "End its name in .html or .md."
        raise InputError(f"{path.name} is neither an HTML nor a Markdown file", where="report", hint=hint)
    if not path.absolute().parent.is_dir() or path.is_dir():
        hint = "Name a file in a folder that exists."
        raise InputError(f"{path} cannot be written", where="report", hint=hint)


def write_report(report: Report, path: Path, progress: Progress) -> None:
    """Write ``report`` to ``path``; ``progress`` is told if its plots are missing, because matplotlib is.

    Raises:
        InputError: No report can be written there.
    """
    check_report_path(path)
    plots: list[Plot] = []
    if path.suffix.lower() != ".md":
        try:
            plots = draw_plots(report)
        except ImportError:
            progress.say("the report has no plots: matplotlib is not installed (pip install 'ftreg[plots]')")
    # What cannot be written as UTF-8, such as half of a surrogate pair, becomes a question mark.
    path.write_text(_WRITERS[path.suffix.lower()](report, plots), encoding="utf-8", errors="replace")
