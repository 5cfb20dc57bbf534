"""Training sparse weights: those that are zero stay zero."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

from ftreg.core.errors import FtregError, InputError
from ftreg.models.matrices import matrices


@contextmanager
def zeros_kept(model: Any) -> Iterator[None]:
    """While this lasts, training leaves the zeros in the matrices of a model zero.

    Their gradients are set to zero. A weight that is zero then stays exactly zero with every optimizer: its moments are
    zero, and so is the weight decay.

    Raises:
        InputError: The matrices have no zeros.
        FtregError: A zero was changed in the meantime.
    """
    weights = {name: model.get_parameter(name) for name, matrix in matrices(model).items() if matrix.layer}
    zeros = {name: mask for name, weight in weights.items() if bool((mask := weight.detach() == 0).any())}
    if not zeros:
        raise InputError(
            "the base has no zeros to keep in its linear layers",
            where="full.keep_zeros",
            hint="Train on a pruned version, or leave keep_zeros out.",
        )
    hooks = [weights[name].register_hook(_without(mask)) for name, mask in zeros.items()]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
    _check(weights, zeros)


def _without(mask: torch.Tensor) -> Any:
    """Return a hook that sets the gradients under ``mask`` to zero, also those that are not finite."""
    return lambda gradient: gradient.masked_fill(mask, 0)


def _check(weights: Mapping[str, torch.Tensor], zeros: Mapping[str, torch.Tensor]) -> None:
    """Raise ``FtregError`` if a weight that was zero is not."""
    for name, mask in zeros.items():
        if bool(weights[name].detach()[mask].any()):
            raise FtregError(f"training changed zeros of {name}, although it was to keep them")
