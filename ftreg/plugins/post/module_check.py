"""The check of a merge, module by module: the merged module computes what the live one with its adapter computes.

It is independent of the text that a certificate compares on, and of its length: every module that an adapter changes is
run on random inputs, before and after it is merged, while its weights are in memory anyway.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from ftreg.core.errors import FtregError

_Sample = tuple[tuple[torch.Tensor, ...], torch.Tensor]  # inputs, and what the live module makes of them

_ROWS = 4
_LARGEST = 1e-4
"""Largest difference of an output, relative to the largest output; float32 sums in another order differ by 1e-6."""


class ModuleCheck:
    """Compares modules before and after they are merged.

    Attributes:
        modules: How many modules were compared.
        error: The largest difference of an output, relative to the module's largest output.
        complete: Whether every module was compared, and each token of a text sees all of each: of an embedding it sees
            one row, of a stack of experts only some.
    """

    def __init__(self) -> None:
        self.modules = 0
        self.error = 0.0
        self.complete = True
        self._random = torch.Generator().manual_seed(0)

    @torch.no_grad()
    def before(self, module: Any) -> _Sample | None:
        """Run a live module on random inputs; return both, or None if its kind of inputs is not known."""
        layer = module.get_base_layer() if hasattr(module, "base_layer") else None
        inputs = self._inputs(layer)
        self.complete &= isinstance(layer, nn.Linear | Conv1D)
        return None if inputs is None else (inputs, module.eval()(*inputs))

    @torch.no_grad()
    def after(self, name: str, sample: _Sample | None, merged: nn.Module) -> None:
        """Compare the merged module with what ``before`` returned; raise ``FtregError`` if they differ."""
        if sample is None:
            return
        inputs, expected = sample
        error = float((merged(*inputs) - expected).abs().max() / expected.abs().max().clamp(min=1e-30))
        if not error <= _LARGEST:  # also if it is NaN
            raise FtregError(
                f"the merged module {name} does not compute what the adapter computes: it is off by {error:.2g}",
                hint="This is an error of PEFT's merge for this type of adapter; serve the adapter itself.",
            )
        self.modules += 1
        self.error = max(self.error, error)

    def _inputs(self, layer: nn.Module | None) -> tuple[torch.Tensor, ...] | None:
        """Return random inputs for a layer; None if its kind of inputs is not known."""
        if isinstance(layer, nn.Linear):
            return (torch.randn(_ROWS, layer.in_features, generator=self._random),)
        if isinstance(layer, Conv1D):
            return (torch.randn(_ROWS, layer.weight.shape[0], generator=self._random),)
        if isinstance(layer, nn.Embedding):
            return (torch.randint(layer.num_embeddings, (_ROWS,), generator=self._random),)
        down = getattr(layer, "down_proj", None)
        if layer is not None and isinstance(down, nn.Parameter) and down.dim() == 3:
            return self._for_experts(layer, down)
        return None

    def _for_experts(self, layer: nn.Module, down: torch.Tensor) -> tuple[torch.Tensor, ...] | None:
        """Return inputs for a stack of experts: a random row for each of them, and where it takes that, its routing."""
        experts = len(down)
        hidden = torch.randn(
            experts, down.shape[2 if getattr(layer, "is_transposed", False) else 1], generator=self._random
        )
        arguments = len(inspect.signature(layer.forward).parameters)
        if arguments == 1:
            return (hidden,)
        return (hidden, torch.arange(experts)[:, None], torch.ones(experts, 1)) if arguments == 3 else None
