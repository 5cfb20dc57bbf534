"""The picture of a bisection: a figure of each version along a chain."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


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

    figure = Figure(figsize=(max(6.0, 1.3 * len(versions)), 4.5), layout="constrained")
    axes = figure.subplots()
    places = range(len(versions))
    axes.plot(places, values, color="C0", marker="o", linewidth=1.5)
    if lost:
        found = sorted(lost)
        axes.scatter(found, [values[place] for place in found], s=100, color="C3", zorder=5, label="quality lost")
        axes.legend(frameon=False)
    axes.set_xticks(places, versions, rotation=30, ha="right")
    axes.set_title(title)
    axes.set_ylabel(figure_name)
    axes.grid(alpha=0.3)
    FigureCanvasAgg(figure).print_png(path)
