"""Schedules: the learning rate over the steps, as a share of its peak."""

from __future__ import annotations

import math

_START = 1 / 25  # one-cycle: where it starts and ends, as in Smith & Topin, "Super-Convergence" (arXiv:1708.07120)
_END = 1 / 250_000


def learning_rate_factor(schedule: str, step: int, *, total: int, warmup: float) -> float:
    """Return the learning rate of ``step`` (from 0), as a share of the peak.

    Args:
        schedule: ``linear``, ``cosine``, ``constant``, ``constant_with_warmup`` or ``one_cycle``.
        step: Optimizer steps done before this one.
        total: Optimizer steps of the whole run.
        warmup: Share of the steps during which the rate rises; ignored by ``constant``. No step has rate 0.
    """
    rising = 0 if schedule == "constant" else math.floor(warmup * total)
    if step < rising:
        share = (step + 1) / (rising + 1)
        return _between(_START, 1.0, share) if schedule == "one_cycle" else share
    share = (step - rising) / max(1, total - rising)
    if schedule == "linear":
        return 1.0 - share
    if schedule == "cosine":
        return _between(1.0, 0.0, share)
    if schedule == "one_cycle":
        return _between(1.0, _END, share)
    return 1.0


def _between(start: float, end: float, share: float) -> float:
    """Interpolate from ``start`` to ``end`` along half a cosine."""
    return end + (start - end) * (1 + math.cos(math.pi * min(share, 1.0))) / 2
