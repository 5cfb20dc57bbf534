"""The picture of a bisection: a figure of each version along a chain."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

_LOG_FROM = 20.0  # ratio of the largest to the smallest value from which the axis is logarithmic


def draw_chain(
    path: Path, title: str, figure_name: str, versions: Sequence[str], values: Sequence[float], lost: set[int]
) -> None:
    """Write a PNG with a figure of each version, from the oldest to the newest.

    Args:
        path: Where to write.
        title: What stands above the picture.
        figure_name: What the values are.
        versions: The versions.
        values: Their figures.
        lost: Positions of the versions at which quality was lost, to be marked.

    Raises:
        ImportError: matplotlib is not installed.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullFormatter

    figure = Figure(figsize=(max(6.0, 1.3 * len(versions)), 4.5), layout="constrained")
    axes = figure.subplots()
    places = range(len(versions))
    axes.plot(places, values, color="C0", marker="o", linewidth=1.5)
    if lost:
        found = sorted(lost)
        axes.scatter(found, [values[place] for place in found], s=100, color="C3", zorder=5, label="quality lost")
        axes.legend(frameon=False)
    log = min(values) > 0 and max(values) / min(values) > _LOG_FROM
    if log:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_xticks(places, versions, rotation=30, ha="right")
    axes.set_title(title)
    axes.set_ylabel(f"{figure_name}, log scale" if log else figure_name)
    axes.grid(alpha=0.3)
    FigureCanvasAgg(figure).print_png(path)
