"""Masks: which weights become zero, given a score for each of them."""

from __future__ import annotations

import torch

from ftreg.core.errors import FtregError, InfeasiblePlan
from ftreg.plugins.post.config import PruneConfig


def least(scores: torch.Tensor, count: int) -> torch.Tensor:
    """Return a mask of the ``count`` lowest scores along the last dimension."""
    lowest = scores.topk(count, dim=-1, largest=False).indices
    return torch.zeros_like(scores, dtype=torch.bool).scatter_(-1, lowest, True)


def least_of_rows(scores: torch.Tensor, config: PruneConfig) -> torch.Tensor:
    """Return a mask of the lowest scores of each row: the configured share, or those that the pattern N:M leaves out.

    Args:
        scores: Of shape (..., outputs, inputs).
        config: The pattern, or the share.
    """
    if config.n_of_m is None:
        return least(scores, round(config.sparsity * scores.shape[-1]))
    kept, group = config.n_of_m
    return least(scores.unflatten(-1, (-1, group)), group - kept).flatten(-2)


def require_width(name: str, inputs: int, config: PruneConfig) -> None:
    """Raise ``InfeasiblePlan`` if the pattern N:M does not divide the ``inputs`` of the matrix ``name``."""
    if config.n_of_m is not None and inputs % config.n_of_m[1]:
        raise InfeasiblePlan(
            f"{name} has {inputs} inputs, and the pattern {config.pattern} needs a multiple of {config.n_of_m[1]}",
            where="prune.pattern",
        )


def check_pattern(name: str, rows: torch.Tensor, config: PruneConfig) -> None:
    """Raise ``FtregError`` if a weight of shape (..., outputs, inputs) was written without the pattern N:M."""
    if config.n_of_m is None:
        return
    kept, group = config.n_of_m
    if int((rows.unflatten(-1, (-1, group)) != 0).sum(dim=-1).max()) > kept:
        raise FtregError(f"{name} was written without the pattern {config.pattern}")
