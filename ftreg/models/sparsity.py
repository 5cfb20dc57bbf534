"""Sparsity: how many of a checkpoint's weights are zero."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ftreg.core.manifest import Json
from ftreg.models.checkpoint import Checkpoint
from ftreg.models.matrices import kind_of


@dataclass(frozen=True)
class Sparsity:
    """The zeros among some of a model's weights.

    Attributes:
        zeros_of: The number of zeros by kind: the weights' names with ``*`` for numbers.
        size_of: The number of values by kind.
    """

    zeros_of: Mapping[str, int]
    size_of: Mapping[str, int]

    @property
    def zeros(self) -> int:
        """The number of zeros."""
        return sum(self.zeros_of.values())

    @property
    def size(self) -> int:
        """The number of values."""
        return sum(self.size_of.values())

    def facts(self) -> dict[str, Json]:
        """Return the shares of zeros, in all and by kind, as facts of a version."""
        by_kind = {kind: round(self.zeros_of[kind] / size, 6) for kind, size in self.size_of.items()}
        return {"sparsity": round(self.zeros / self.size, 6), "sparsity_by_kind": by_kind}


def count_zeros(checkpoint: Checkpoint, names: Iterable[str]) -> Sparsity:
    """Count the zeros in the tensors of these names on disk."""
    zeros: Counter[str] = Counter()
    sizes: Counter[str] = Counter()
    for name in names:
        weight = checkpoint.read(name)
        zeros[kind_of(name)] += int((weight == 0).sum())
        sizes[kind_of(name)] += weight.numel()
    return Sparsity(zeros, sizes)
