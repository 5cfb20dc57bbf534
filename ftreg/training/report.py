"""The report of a run: ``metrics.json`` with every step, and a picture of the loss."""

from __future__ import annotations

import json
import resource
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ftreg.core.manifest import Json
from ftreg.core.types import Progress
from ftreg.training.plot import Curve, draw_loss

_EVALUATED = "eval_"  # what the trainer puts before the names of an evaluation's figures


def split_history(history: Curve) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Split the trainer's log into two curves: its steps, and its evaluations with their loss and further figures."""
    steps = [dict(entry) for entry in history if "loss" in entry]
    evaluations = [
        {name.removeprefix(_EVALUATED): value for name, value in entry.items()}
        for entry in history
        if f"{_EVALUATED}loss" in entry
    ]
    return steps, evaluations


def best_evaluation(evaluations: Curve) -> Mapping[str, Any] | None:
    """Return the evaluation with the lowest loss, the first of equals; None if there are no evaluations."""
    return min(evaluations, key=lambda entry: float(entry["loss"]), default=None)


def totals(steps: Curve, evaluations: Curve) -> dict[str, Json]:
    """Sum up a run over all of its steps, those before an interruption included.

    Returns:
        ``steps``, ``epochs``, ``final_training_loss`` (mean of the last tenth of the steps), ``final_validation_loss``,
        ``best_validation_loss`` and ``best_validation_step`` (each None without validation examples), ``tokens``,
        ``labelled_tokens``, ``seconds`` (in optimizer steps alone) and ``tokens_per_second``. Losses are in nats per
        labelled token. Further figures of the objective are there as ``final_validation_NAME``.
    """
    seconds = sum(entry["seconds"] for entry in steps)
    tokens = sum(entry["tokens"] for entry in steps)
    last = steps[-max(1, len(steps) // 10) :]
    best = best_evaluation(evaluations)
    return {
        "steps": len(steps),
        "epochs": steps[-1]["epoch"],
        "final_training_loss": sum(entry["loss"] for entry in last) / len(last),
        "final_validation_loss": evaluations[-1]["loss"] if evaluations else None,
        "best_validation_loss": best["loss"] if best else None,
        "best_validation_step": best["step"] if best else None,
        **_further(evaluations),
        "tokens": tokens,
        "labelled_tokens": sum(entry["labelled_tokens"] for entry in steps),
        "seconds": round(seconds, 3),
        "tokens_per_second": round(tokens / seconds, 1),
    }


def _further(evaluations: Curve) -> dict[str, Json]:
    """Return the last evaluation's figures beside the loss."""
    last = evaluations[-1] if evaluations else {}
    return {f"final_validation_{name}": last[name] for name in last if name not in ("step", "epoch", "loss")}


def peak_memory(device: torch.device) -> dict[str, Json]:
    """Return the peak bytes of this process's resident memory, and of the CUDA device's if it is used."""
    unit = 1 if sys.platform == "darwin" else 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    cuda = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None
    return {"peak_rss_bytes": peak, "peak_cuda_bytes": cuda}


def write_report(
    folder: Path, name: str, steps: Curve, evaluations: Curve, measured: Mapping[str, Json], progress: Progress
) -> None:
    """Write ``metrics.json`` and, if matplotlib is installed, ``loss.png`` into ``folder``.

    Args:
        folder: Where to write.
        name: Name of the result, the picture's title.
        steps: What ``split_history`` returned.
        evaluations: The same.
        measured: The figures of the run, kept as ``totals``.
        progress: Where to report that matplotlib is missing.
    """
    metrics = {"totals": dict(measured), "steps": steps, "evaluations": evaluations}
    (folder / "metrics.json").write_text(json.dumps(metrics, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    try:
        draw_loss(folder / "loss.png", name, steps, evaluations, best_evaluation(evaluations))
    except ImportError:
        progress.say("no loss.png: matplotlib is not installed (pip install 'ftreg[plots]')")
