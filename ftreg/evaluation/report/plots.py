"""Plots of a report: every figure with its intervals, and the loss of the trainings, each drawn for light and dark."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from ftreg.evaluation.report.facts import Figure, Report

_COLOURS = ("#3b7dd8", "#d9730d", "#2f9e63", "#c2468f", "#8a63d2", "#b59a00", "#1a9ba1", "#d64545")
_INKS = {"light": "#33373d", "dark": "#d5d9e0"}
_WIDTH = 4.2  # inches
_LONGEST_LABEL = 22


@dataclass(frozen=True)
class Plot:
    """A plot as SVG, in two colours of text.

    Attributes:
        title: What it shows.
        light: For a light background.
        dark: For a dark one.
    """

    title: str
    light: bytes
    dark: bytes


def draw_plots(report: Report) -> list[Plot]:
    """Draw all plots of a report; raise ``ImportError`` if matplotlib is not installed."""
    refs = [candidate.ref for candidate in report.candidates]
    height = 0.75 + 0.34 * len(refs)
    plots = [_plot(one.name, height, partial(_draw_figure, figure=one, refs=refs)) for one in report.figures]
    if any(candidate.training for candidate in report.candidates):
        plots.append(_plot("training loss (nats per token)", 2.6, partial(_draw_training, report=report)))
    return plots


def _plot(title: str, height: float, draw: Callable[[Any, str], None]) -> Plot:
    """Draw a plot of ``height`` inches in both colours of text."""
    import matplotlib as mpl
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure as Canvas

    images = {}
    for theme, ink in _INKS.items():
        # A fixed salt and no date: the same report is the same file.
        with mpl.rc_context({"svg.fonttype": "path", "svg.hashsalt": "ftreg", "font.size": 9.5}):
            canvas = Canvas(figsize=(_WIDTH, height), layout="constrained")
            axes = canvas.subplots()
            axes.set_facecolor("none")
            canvas.patch.set_alpha(0)
            axes.set_title(title, color=ink, parse_math=False, fontsize=10.5, loc="left", fontweight="bold")
            axes.tick_params(colors=ink, length=0)
            for name, spine in axes.spines.items():
                spine.set_visible(name == "bottom")
                spine.set_color(ink)
            draw(axes, ink)
            file = io.BytesIO()
            FigureCanvasSVG(canvas).print_svg(file, metadata={"Date": None})
            images[theme] = file.getvalue()
    return Plot(title, images["light"], images["dark"])


def _draw_figure(axes: Any, ink: str, *, figure: Figure, refs: list[str]) -> None:
    """Draw a figure of each version as a point with its interval, the first version on top."""
    from matplotlib.ticker import MaxNLocator

    for row, ref in enumerate(refs):
        colour = _COLOURS[row % len(_COLOURS)]
        one = figure.estimates.get(ref)
        if one is None:
            continue
        if one.low is not None and one.high is not None:
            axes.plot([one.low, one.high], [row, row], color=colour, linewidth=4, alpha=0.45, solid_capstyle="round")
        axes.plot([one.value], [row], color=colour, marker="o", markersize=6)
    axes.set_yticks(range(len(refs)), [_label(ref) for ref in refs], parse_math=False)
    axes.set_ylim(len(refs) - 0.5, -0.5)
    axes.margins(x=0.08)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.grid(axis="x", color=ink, alpha=0.18)


def _draw_training(axes: Any, ink: str, *, report: Report) -> None:
    """Draw the training loss as lines and the validation loss as points on dashed lines, each training once."""
    from matplotlib.ticker import MaxNLocator

    drawn = set()
    for row, candidate in enumerate(report.candidates):
        training, colour = candidate.training, _COLOURS[row % len(_COLOURS)]
        if training is None or training.ref in drawn:
            continue
        drawn.add(training.ref)
        if training.training:
            axes.plot(*zip(*training.training, strict=True), color=colour, linewidth=1.2, label=_label(training.ref))
        if training.validation:
            marks = {"linestyle": "--", "linewidth": 1, "marker": "o", "markersize": 3.5}
            axes.plot(
                *zip(*training.validation, strict=True),
                color=colour,
                label=f"{_label(training.ref)}, validation",
                **marks,
            )
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.set_xlabel("step", color=ink)
    axes.grid(color=ink, alpha=0.18)
    for text in axes.legend(frameon=False, labelcolor=ink, fontsize=8.5).get_texts():
        text.set_parse_math(False)


def _label(ref: str) -> str:
    """Shorten a long reference in its middle."""
    if len(ref) <= _LONGEST_LABEL:
        return ref
    half = (_LONGEST_LABEL - 1) // 2
    return f"{ref[:half]}…{ref[-half:]}"
