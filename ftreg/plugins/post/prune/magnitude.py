"""Magnitude pruning: the weights of smallest magnitude become zero (Han et al., 2015, https://arxiv.org/abs/1506.02626).

It needs no data, and streams: one tensor is in memory at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import torch

from ftreg.core.errors import InfeasiblePlan
from ftreg.core.types import StepJob
from ftreg.models.checkpoint import Checkpoint
from ftreg.models.matrices import Coverage, Matrix, coverage, stored_matrices
from ftreg.models.skeleton import load_skeleton
from ftreg.models.tensors import write_weights
from ftreg.plugins.post.config import PruneConfig
from ftreg.plugins.post.prune.masks import least, least_of_rows, require_width

Prune = Callable[[torch.Tensor, Matrix], torch.Tensor]


def choose(source: Checkpoint, config: PruneConfig) -> tuple[dict[str, Matrix], Coverage]:
    """Return the matrices to prune by their names on disk, and how much of the model they are.

    Raises:
        InfeasiblePlan: There are none, or the pattern does not divide the inputs of one.
    """
    known = stored_matrices(load_skeleton(source.folder), source.tensors)
    grouped = config.n_of_m is not None  # along the inputs, which have to be known then
    chosen = {
        name: matrix for name, matrix in known.items() if matrix.layer and not (grouped and matrix.transposed is None)
    }
    if not chosen:
        raise InfeasiblePlan("this model has no linear layer that can be pruned", where=str(source.folder))
    for name, matrix in chosen.items():
        require_width(name, source.tensors[name].shape[-2 if matrix.transposed else -1], config)
    return chosen, coverage(known, chosen)


def prune_by_magnitude(job: StepJob, source: Checkpoint, config: PruneConfig) -> tuple[dict[str, Matrix], Coverage]:
    """Write the pruned weights of ``source`` into ``job.staging``; return what ``choose`` chose."""
    chosen, covered = choose(source, config)
    prune = _function(source, chosen, config)

    def tensors() -> Iterator[tuple[str, torch.Tensor]]:
        for done, name in enumerate(source.tensors, start=1):
            tensor = source.read(name)
            yield name, prune(tensor, chosen[name]) if name in chosen else tensor
            job.progress.update(done)

    job.progress.begin("pruning", len(source.tensors), unit="tensors")
    write_weights(job.staging, source.tensors, tensors())
    job.progress.end()
    return chosen, covered


def _function(source: Checkpoint, chosen: Mapping[str, Matrix], config: PruneConfig) -> Prune:
    """Return the function ``(weight, its matrix) -> pruned weight`` for the configuration."""
    if config.n_of_m is not None:
        return lambda weight, matrix: _prune_groups(weight, matrix, config)
    if config.scope == "global":
        return _GlobalPruner(source, chosen, config.sparsity)
    return lambda weight, _matrix: _prune_smallest(weight, config.sparsity)


def _prune_smallest(weight: torch.Tensor, sparsity: float) -> torch.Tensor:
    """Set the values of smallest magnitude of a matrix, or of each matrix of a stack, to zero."""
    each = weight.flatten(-2)
    return each.masked_fill(least(each.abs(), round(sparsity * each.shape[-1])), 0).view(weight.shape)


def _prune_groups(weight: torch.Tensor, matrix: Matrix, config: PruneConfig) -> torch.Tensor:
    """Set the values of smallest magnitude in each group of neighbours along the inputs to zero."""
    rows = weight.mT if matrix.transposed else weight
    pruned = rows.masked_fill(least_of_rows(rows.abs(), config), 0)
    return pruned.mT if matrix.transposed else pruned


class _GlobalPruner:
    """Sets the smallest weights of all matrices together to zero, exactly as many as configured.

    The threshold is found in two passes over the files, each a histogram of 16 bits of the magnitudes, whose float32
    bits sort as their values do; so only the counts are held in memory.
    """

    def __init__(self, source: Checkpoint, chosen: Mapping[str, Matrix], sparsity: float) -> None:
        rank = round(sparsity * sum(matrix.size for matrix in chosen.values()))
        high, rank = self._bin(source, chosen, rank, None)
        low, self._ties = self._bin(source, chosen, rank, high)
        self._threshold = (high << 16) | low

    def __call__(self, weight: torch.Tensor, _matrix: Matrix) -> torch.Tensor:
        """Prune the next weight; of weights that equal the threshold, the first are pruned until there are enough."""
        bits = _magnitude_bits(weight)
        pruned = weight.clone()
        pruned.view(-1)[bits < self._threshold] = 0
        ties = (bits == self._threshold).nonzero()[: self._ties, 0]
        pruned.view(-1)[ties] = 0
        self._ties -= len(ties)
        return pruned

    @staticmethod
    def _bin(source: Checkpoint, chosen: Mapping[str, Matrix], rank: int, high: int | None) -> tuple[int, int]:
        """Return 16 bits of the value of this ``rank``, and its rank among the values that share them."""
        counts = torch.zeros(1 << 16, dtype=torch.int64)
        for name in chosen:
            bits = _magnitude_bits(source.read(name))
            part = bits >> 16 if high is None else bits[bits >> 16 == high] & 0xFFFF
            counts += torch.bincount(part, minlength=1 << 16)
        before = counts.cumsum(0)
        index = int(torch.searchsorted(before, rank))
        return index, rank - int(before[index] - counts[index])


def _magnitude_bits(weight: torch.Tensor) -> torch.Tensor:
    """Return the magnitudes' float32 bits as integers, which sort as the magnitudes do."""
    return weight.float().abs().flatten().contiguous().view(torch.int32)
