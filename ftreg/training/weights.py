"""The weights that a run trains: written, read back, and compared with those before."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from ftreg.core.errors import FtregError

Fingerprint = Mapping[str, tuple[float, float]]


def trainable(model: Any) -> dict[str, torch.Tensor]:
    """Return the tensors that are trained, by name; tied ones once."""
    return {name: weight.detach() for name, weight in model.named_parameters() if weight.requires_grad}


def save_trainable(model: Any, path: Path) -> None:
    """Write the trained tensors, without frozen ones, to one file, which appears only once it is complete."""
    part = path.with_suffix(".part")
    save_file({name: weight.contiguous() for name, weight in trainable(model).items()}, part)
    part.replace(path)


@torch.no_grad()
def load_trainable(model: Any, path: Path) -> None:
    """Read back what ``save_trainable`` wrote; raise ``FtregError`` if it belongs to another model."""
    saved = load_file(path)
    weights = trainable(model)
    if saved.keys() != weights.keys() or any(saved[name].shape != weights[name].shape for name in saved):
        raise FtregError("the checkpoint holds the weights of another model", where=str(path))
    for name, weight in weights.items():
        weight.copy_(saved[name])


def fingerprint(model: Any) -> Fingerprint:
    """Return two sums of each trained tensor in float64, which show whether it changed and whether it is finite."""
    return {name: _sums(weight) for name, weight in trainable(model).items()}


def _sums(weight: torch.Tensor) -> tuple[float, float]:
    """Return the sum of the values and the sum of their magnitudes."""
    dtype = torch.float32 if weight.device.type == "mps" else torch.float64  # MPS has no float64
    return weight.sum(dtype=dtype).item(), weight.abs().sum(dtype=dtype).item()


def check_trained(model: Any, before: Fingerprint) -> dict[str, int]:
    """Count the trained tensors and those that changed since ``before``.

    Raises:
        FtregError: Nothing changed, or a weight is infinite or NaN.
    """
    after = fingerprint(model)
    broken = sorted(name for name, sums in after.items() if not all(map(math.isfinite, sums)))
    if broken:
        raise FtregError(
            f"training left weights that are not finite: {', '.join(broken[:3])}",
            hint="Lower train.learning_rate or train.max_grad_norm, or set train.precision to fp32.",
        )
    changed = sum(after[name] != before[name] for name in after)
    if not changed:
        raise FtregError(
            "training changed no weight: the result would be the base itself",
            hint="Raise train.learning_rate or train.epochs.",
        )
    return {"trained_tensors": len(after), "changed_tensors": changed}
