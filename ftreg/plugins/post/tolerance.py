"""How far a result may be from its source if the step only stores the same weights in another form."""

from __future__ import annotations

import torch

from ftreg.core.types import Tolerance

# Reordered float32 sums move logits by about 1e-6; rounded weights, or products in fewer bits, move them more.
_EQUAL = {
    torch.float32: Tolerance(kl=1e-6, top1=0.999, loss_delta=1e-4, logit_error=1e-4),
    torch.float16: Tolerance(kl=1e-4, top1=0.98, loss_delta=2e-3),
    torch.bfloat16: Tolerance(kl=5e-3, top1=0.95, loss_delta=1e-2),
}

FOUR_BITS = Tolerance(kl=0.15, top1=0.85, loss_delta=0.12)
"""For weights in 4 bits, with a scale for each block."""

EIGHT_BITS = Tolerance(kl=0.02, top1=0.95, loss_delta=0.02)
"""For weights in 8 bits, with a scale for each row."""

BITS = {
    8: EIGHT_BITS,
    4: FOUR_BITS,
    3: Tolerance(kl=0.4, top1=0.75, loss_delta=0.3),
    2: Tolerance(kl=1.5, top1=0.5, loss_delta=1.0),
}
"""For weights in so many bits."""


def equal_within(*dtypes: torch.dtype) -> Tolerance:
    """Return the tolerance for results that are equal up to rounding to the coarsest of ``dtypes``."""
    order = list(_EQUAL)
    return _EQUAL[max((dtype for dtype in dtypes if dtype in _EQUAL), key=order.index, default=torch.bfloat16)]


def without_share(share: float) -> Tolerance:
    """Return what removing a share ``s`` of the weights may cost: a KL of ``s``, a loss of ``s / 2``, top-1 ``1 - s``.

    Removing weights is expected to cost something. Within these limits a result can be used as it is; beyond them it
    has to be trained further first.
    """
    return Tolerance(kl=share, top1=1 - share, loss_delta=share / 2)
