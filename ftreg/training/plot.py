"""The picture of a run: training and validation loss, and the learning rate, over the steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

Curve = Sequence[Mapping[str, Any]]

_SMOOTHED_FROM = 20  # steps; fewer are shown as they are
_WINDOW = 20  # the smoothed curve averages over one of so many parts of the run
_LOG_FROM = 20.0  # ratio of the largest to the smallest loss from which the axis is logarithmic


def draw_loss(path: Path, title: str, steps: Curve, evaluations: Curve, best: Mapping[str, Any] | None) -> None:
    """Write a PNG of a run's curves.

    Args:
        path: Where to write.
        title: What stands above the picture.
        steps: The optimizer steps, with ``step``, ``loss`` and ``learning_rate``.
        evaluations: The evaluations, with ``step`` and ``loss``; may be empty.
        best: The evaluation to mark.

    Raises:
        ImportError: matplotlib is not installed.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

    figure = Figure(figsize=(8, 5.2), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(4, 1))
    numbers = [entry["step"] for entry in steps]
    losses = np.array([entry["loss"] for entry in steps])
    log = is_wide(losses, [entry["loss"] for entry in evaluations])
    if len(steps) < _SMOOTHED_FROM:
        upper.plot(numbers, losses, color="C0", marker=".", label="training")
    else:
        upper.plot(numbers, losses, color="C0", linewidth=0.7, alpha=0.3, label="training, each step")
        upper.plot(numbers, smooth(losses, log=log), color="C0", linewidth=1.8, label="training, smoothed")
    if evaluations:
        points = [entry["step"] for entry in evaluations], [entry["loss"] for entry in evaluations]
        upper.plot(*points, color="C1", marker="o", markersize=4, linewidth=1.2, label="validation")
    if best is not None:
        label = f"best validation: {best['loss']:.3g} at step {best['step']}"
        marked = {"color": "C3", "linestyle": "none", "markersize": 13, "markeredgecolor": "white", "zorder": 5}
        upper.plot([best["step"]], [best["loss"]], marker="*", label=label, **marked)
    if log:
        upper.set_yscale("log")
        upper.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        upper.yaxis.set_major_formatter("{x:g}")
        upper.yaxis.set_minor_formatter(NullFormatter())
    upper.set_title(title)
    upper.set_ylabel(f"loss (nats per token{', log scale' if log else ''})")
    upper.grid(alpha=0.3)
    upper.legend(frameon=False)
    lower.plot(numbers, [entry["learning_rate"] for entry in steps], color="grey", linewidth=1)
    lower.ticklabel_format(axis="y", style="sci", scilimits=(0, 0))
    lower.set_ylabel("learning rate")
    lower.set_xlabel("step")
    lower.xaxis.set_major_locator(MaxNLocator(integer=True))
    lower.grid(alpha=0.3)
    FigureCanvasAgg(figure).print_png(path)


def is_wide(*curves: Sequence[float] | np.ndarray) -> bool:
    """Return whether losses range so far that a linear axis would flatten most of the curve."""
    losses = np.concatenate([np.asarray(curve, dtype=float) for curve in curves])
    return bool(losses.min() > 0 and losses.max() / losses.min() > _LOG_FROM)


def smooth(losses: np.ndarray, *, log: bool = False) -> np.ndarray:
    """Average each value with its neighbours, within the window of the picture; geometrically if ``log``."""
    width = max(1, len(losses) // _WINDOW) | 1  # odd, so that the window has a centre
    values = np.log(losses) if log else losses
    window = np.ones(width)
    averages = np.convolve(values, window, "same") / np.convolve(np.ones(len(values)), window, "same")
    return np.exp(averages) if log else averages
