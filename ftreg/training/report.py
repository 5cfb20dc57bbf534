"""The report of a run: ``metrics.json`` with every step, and a picture of the loss."""

from __future__ import annotations

import json
import resource
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from ftreg.core.manifest import Json
from ftreg.core.types import Progress

Curve = Sequence[Mapping[str, Any]]


def split_history(history: Curve) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The trainer's log as two curves: its steps, and its evaluations."""
    steps = [dict(entry) for entry in history if "loss" in entry]
    evaluations = [
        {"step": entry["step"], "epoch": entry["epoch"], "loss": entry["eval_loss"]}
        for entry in history
        if "eval_loss" in entry
    ]
    return steps, evaluations


def best_evaluation(evaluations: Curve) -> Mapping[str, Any] | None:
    """The evaluation with the lowest loss, the first of equals; None where there is none."""
    return min(evaluations, key=lambda entry: float(entry["loss"]), default=None)


def totals(steps: Curve, evaluations: Curve) -> dict[str, Json]:
    """The sums of a run over all of its steps, those before an interruption included."""
    seconds = sum(entry["seconds"] for entry in steps)
    tokens = sum(entry["tokens"] for entry in steps)
    last = steps[-len(steps) // 10 - 1 :]
    best = best_evaluation(evaluations)
    return {
        "steps": len(steps),
        "epochs": steps[-1]["epoch"],
        "loss": sum(entry["loss"] for entry in last) / len(last),
        "validation_loss": evaluations[-1]["loss"] if evaluations else None,
        "best_validation_loss": best["loss"] if best else None,
        "best_step": best["step"] if best else None,
        "tokens": tokens,
        "labelled_tokens": sum(entry["labelled_tokens"] for entry in steps),
        "seconds": round(seconds, 3),
        "tokens_per_second": round(tokens / seconds, 1),
    }


def peak_memory(device: torch.device) -> dict[str, Json]:
    """Peak bytes of this process's resident memory, and of the CUDA device's where it is used."""
    unit = 1 if sys.platform == "darwin" else 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    cuda = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None
    return {"peak_rss_bytes": peak, "peak_cuda_bytes": cuda}


def write_report(
    folder: Path, steps: Curve, evaluations: Curve, measured: Mapping[str, Json], progress: Progress
) -> None:
    """Write ``metrics.json`` and, if matplotlib is there, ``loss.png`` into ``folder``."""
    metrics = {"totals": dict(measured), "steps": steps, "evaluations": evaluations}
    (folder / "metrics.json").write_text(json.dumps(metrics, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    try:
        _draw(folder / "loss.png", steps, evaluations)
    except ImportError:
        progress.say("no loss.png: matplotlib is not installed (pip install 'ftreg[plots]')")


def _draw(path: Path, steps: Curve, evaluations: Curve) -> None:
    """Draw both curves, and the learning rate below them."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    loss, rate = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    numbers = [entry["step"] for entry in steps]
    loss.plot(numbers, [entry["loss"] for entry in steps], linewidth=0.8, alpha=0.7, label="training")
    if evaluations:
        points = [entry["step"] for entry in evaluations], [entry["loss"] for entry in evaluations]
        loss.plot(*points, marker="o", markersize=4, label="validation")
        loss.legend(frameon=False)
    loss.set_ylabel("loss (nats per token)")
    loss.grid(alpha=0.3)
    rate.plot(numbers, [entry["learning_rate"] for entry in steps], linewidth=0.8, color="grey")
    rate.set_ylabel("learning rate")
    rate.set_xlabel("step")
    FigureCanvasAgg(figure).print_png(path)
