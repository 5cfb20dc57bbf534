"""Matrices: the weights of a model that activations are multiplied with, and how many of them a step changes."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn
from transformers.pytorch_utils import Conv1D

from ftreg.compat.transformers import is_router, loaded_as
from ftreg.core.manifest import Json
from ftreg.core.types import Progress
from ftreg.models.tensors import TensorInfo

_ENOUGH = 0.9  # the share of the weights below which a user is told what is left out


@dataclass(frozen=True)
class Matrix:
    """A matrix, or a stack of matrices with one for each expert.

    Attributes:
        size: The number of its values.
        transposed: Whether it is stored as (in, out) instead of (out, in); None if that is not known.
        layer: Whether it belongs to a linear layer or is a stack of experts; otherwise it is a router, or something
            else that computes with a matrix of its own.
    """

    size: int
    transposed: bool | None
    layer: bool


@dataclass(frozen=True)
class Coverage:
    """How many of a model's matrices something was done to.

    Attributes:
        weights: The number of values in those matrices.
        of: The number of values in all matrices.
        left: The number of values in the others, by kind: their names with ``*`` for numbers.
    """

    weights: int
    of: int
    left: Mapping[str, int]

    def facts(self) -> dict[str, Json]:
        """Return the figures as a fact of a version."""
        return {"weights": self.weights, "of": self.of, "left": dict(self.left)}

    def warn(self, progress: Progress, done: str) -> None:
        """Say what is left out if that is much; ``done`` is what was done to the others, such as ``quantized``."""
        if self.weights < _ENOUGH * self.of:
            left = ", ".join(sorted(self.left, key=lambda kind: -self.left[kind]))
            share = f"{self.weights / self.of:.0%}"
            progress.say(f"warning: only {share} of the linear weights are {done}; left as they are: {left}")


def matrices(model: Any) -> dict[str, Matrix]:
    """Return the matrices of a model by their names in it, without embeddings and the output head.

    The model may be on the meta device, and its layers may be quantized.
    """
    head = model.get_output_embeddings()
    found: dict[str, Matrix] = {}
    for path, module in model.named_modules():
        if module is not head and not isinstance(module, nn.Embedding | nn.Conv1d | nn.Conv2d | nn.Conv3d):
            found |= {f"{path}.{name}": matrix for name, matrix in _own_matrices(module)}
    return found


def coverage(known: Mapping[str, Matrix], changed: Collection[str]) -> Coverage:
    """Count the values of the matrices ``known`` and of those among them whose names are in ``changed``."""
    left: dict[str, int] = {}
    for name, matrix in known.items():
        if name not in changed:
            left[kind_of(name)] = left.get(kind_of(name), 0) + matrix.size
    total = sum(matrix.size for matrix in known.values())
    return Coverage(total - sum(left.values()), total, left)


def kind_of(name: str) -> str:
    """Return a weight's name with ``*`` in the place of the numbers of layers and experts."""
    return ".".join("*" if part.isdigit() else part for part in name.split("."))


def _own_matrices(module: nn.Module) -> Iterator[tuple[str, Matrix]]:
    """Yield the matrices that belong to the module itself."""
    if isinstance(module, Conv1D):
        yield "weight", Matrix(module.weight.numel(), transposed=True, layer=True)
    elif isinstance(module, nn.Linear):  # a quantized one packs its weight
        yield "weight", Matrix(module.in_features * module.out_features, transposed=False, layer=not is_router(module))
    else:
        for name, weight in module.named_parameters(recurse=False):
            # Not biases, and not what a state-space model calls A and D.
            if name.endswith(("weight", "proj")) and weight.dim() in (2, 3) and min(weight.shape[-2:]) > 1:
                yield name, Matrix(weight.numel(), getattr(module, "is_transposed", None), layer=weight.dim() == 3)


def stored_matrices(
    model: Any, stored: Mapping[str, TensorInfo], known: Mapping[str, Matrix] | None = None
) -> dict[str, Matrix]:
    """Return the tensors among ``stored`` that hold matrices of ``model``, or parts of them, by their names on disk.

    A model may stack or join several of them while loading, such as those of experts.

    Args:
        model: The model; it may be on the meta device.
        stored: The tensors of its checkpoint.
        known: The matrices to look for, by their names in the model; by default all of them.
    """
    known = matrices(model) if known is None else known
    found: dict[str, Matrix] = {}
    for name, loaded in loaded_as(model, stored).items():
        if (matrix := known.get(loaded.name)) is not None:
            transposed = None if matrix.transposed is None else matrix.transposed is not loaded.turned
            found[name] = Matrix(math.prod(stored[name].shape), transposed, matrix.layer)
    return found
