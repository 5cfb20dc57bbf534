"""Inputs: observes what each matrix of a model is multiplied with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional
from torch.overrides import TorchFunctionMode

# Of each product: the positions of its inputs and of its matrix among the arguments, and the dimension of the matrix
# that the inputs run along.
_PRODUCTS = {
    functional.linear: (0, 1, -1),
    torch.addmm: (1, 2, -2),
    torch.mm: (0, 1, -2),
    torch.bmm: (0, 1, -2),
    torch.matmul: (0, 1, -2),
    torch.Tensor.mm: (0, 1, -2),
    torch.Tensor.bmm: (0, 1, -2),
    torch.Tensor.matmul: (0, 1, -2),
    torch.Tensor.__matmul__: (0, 1, -2),
}


@dataclass
class Inputs:
    """What was seen of the inputs of a matrix, or of a stack of matrices with one for each expert.

    Attributes:
        squares: Sums of the squared inputs over all tokens, of shape (matrices, inputs) in float32.
        transposed: Whether the matrix is stored as (in, out) instead of (out, in).
    """

    squares: torch.Tensor
    transposed: bool


class InputNorms(TorchFunctionMode):
    """While this lasts, sums up the squares of what each of some matrices is multiplied with.

    A matrix is recognised by the address of its memory, whichever module multiplies with it: layers of a model's own
    class and the experts of a stack are seen like any other.

    Args:
        weights: Contiguous matrices, of shape (out, in) or (in, out), or stacks of them, by name.

    Attributes:
        seen: What was seen, by name; without the matrices that nothing was multiplied with.
    """

    def __init__(self, weights: Mapping[str, torch.Tensor]) -> None:
        super().__init__()
        self.seen: dict[str, Inputs] = {}
        self._weights = weights
        self._places = {
            matrix.data_ptr(): (name, index)
            for name, weight in weights.items()
            for index, matrix in enumerate(weight.view(-1, *weight.shape[-2:]))
        }

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Observe the call if it is a product with one of the matrices, and make it."""
        if func in _PRODUCTS:
            inputs, weight, along = _PRODUCTS[func]
            if len(args) > weight and isinstance(args[weight], torch.Tensor):
                self._observe(args[inputs], args[weight], along)
        return func(*args, **(kwargs or {}))

    def _observe(self, inputs: torch.Tensor, weight: torch.Tensor, along: int) -> None:
        """Add the squares of ``inputs``, of shape (..., inputs), or (matrices, tokens, inputs) for a whole stack."""
        if weight.data_ptr() not in self._places:
            return
        name, index = self._places[weight.data_ptr()]
        stored = self._weights[name]
        count = stored.numel() // (stored.shape[-1] * stored.shape[-2])
        if name not in self.seen:
            squares = torch.zeros(count, weight.shape[along], device=weight.device)
            self.seen[name] = Inputs(squares, transposed=weight.stride(along) != 1)
        if weight.dim() == 3:
            self.seen[name].squares += inputs.float().square().sum(dim=-2)
        else:
            self.seen[name].squares[index] += inputs.float().square().flatten(0, -2).sum(dim=0)
