"""Step ``prune``: sets the weights of smallest magnitude to zero (Han et al., 2015, https://arxiv.org/abs/1506.02626).

The matrices of linear layers and of experts are pruned; embeddings, the output head, routers, norms and biases are not.
The result has the size and the speed of its source: only formats and kernels for sparse weights gain from zeros, such
as 2:4 on sparse tensor cores.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from ftreg.core.errors import FtregError, InfeasiblePlan
from ftreg.core.types import CHECKPOINT, Artifact, StepJob, Tolerance
from ftreg.models.checkpoint import Checkpoint, copy_config
from ftreg.models.facts import describe
from ftreg.models.matrices import Coverage, Matrix, coverage, kind_of, stored_matrices
from ftreg.models.skeleton import load_skeleton
from ftreg.models.tensors import write_weights
from ftreg.models.tokenizer import copy_tokenizer
from ftreg.plugins.post.config import PruneConfig


def check(folder: Path, config: PruneConfig) -> None:
    """Raise ``InfeasiblePlan`` if the model in ``folder`` has no matrix that the pattern fits."""
    _choose(Checkpoint(folder), config)


def apply(job: StepJob) -> Artifact:
    """Prune ``job.source`` to the configured sparsity, and count the zeros in what was written.

    Raises:
        InfeasiblePlan: The checkpoint is quantized, or has no matrix that the pattern fits.
        InputError: Files are damaged.
        FtregError: The result is less sparse than configured.
    """
    assert isinstance(job.config, PruneConfig)
    source = Checkpoint(job.source.path)
    source.require_full_precision("prune")
    chosen, covered = _choose(source, job.config)
    covered.warn(job.progress, "pruned")
    pruner = _pruner(source, chosen, job.config)

    def tensors() -> Iterator[tuple[str, torch.Tensor]]:
        for done, name in enumerate(source.tensors, start=1):
            tensor = source.read(name)
            yield name, pruner(tensor, chosen[name]) if name in chosen else tensor
            job.progress.update(done)

    job.progress.begin("pruning", len(source.tensors), unit="tensors")
    write_weights(job.staging, source.tensors, tensors())
    job.progress.end()
    copy_config(job.staging, source)
    copy_tokenizer(job.staging, job.source.path)
    return Artifact(
        kind=CHECKPOINT,
        facts={**describe(job.staging), "pruned": covered.facts(), **_verify(job, chosen)},
        tolerance=tolerance(job.config.sparsity),
    )


def tolerance(sparsity: float) -> Tolerance:
    """Return what pruning may cost: at sparsity ``s`` a mean KL of ``s``, a loss of ``s / 2``, and top-1 ``1 - s``.

    Pruning is expected to cost something; these limits refuse a result whose cost is out of proportion.
    """
    return Tolerance(kl=sparsity, top1=1 - sparsity, loss_delta=sparsity / 2)


def _choose(source: Checkpoint, config: PruneConfig) -> tuple[dict[str, Matrix], Coverage]:
    """Return the matrices to prune by name on disk, and how much of the model they are.

    Raises:
        InfeasiblePlan: There are none, or the pattern does not divide one.
    """
    known = stored_matrices(load_skeleton(source.folder), source.tensors)
    grouped = config.pattern == "2:4"  # along the inputs, which have to be known then
    chosen = {
        name: matrix for name, matrix in known.items() if matrix.layer and not (grouped and matrix.transposed is None)
    }
    if not chosen:
        raise InfeasiblePlan("this model has no linear layer that can be pruned", where=str(source.folder))
    for name, matrix in chosen.items():
        inputs = source.tensors[name].shape[-2 if matrix.transposed else -1]
        if grouped and inputs % 4:
            raise InfeasiblePlan(
                f"{name} has {inputs} inputs, and the pattern 2:4 needs a multiple of 4", where="prune"
            )
    return chosen, coverage(known, chosen)


def _pruner(
    source: Checkpoint, chosen: Mapping[str, Matrix], config: PruneConfig
) -> Callable[[torch.Tensor, Matrix], torch.Tensor]:
    """Return the function ``(weight, its matrix) -> pruned weight`` for the configuration."""
    if config.pattern == "2:4":
        return _prune_2_4
    if config.scope == "global":
        return _GlobalPruner(source, chosen, config.sparsity)
    return lambda weight, _matrix: _prune_smallest(weight, config.sparsity)


def _prune_smallest(weight: torch.Tensor, sparsity: float) -> torch.Tensor:
    """Set the values of smallest magnitude of a matrix, or of each matrix of a stack, to zero."""
    each = weight.reshape(-1, weight.shape[-2] * weight.shape[-1])
    smallest = each.abs().topk(round(sparsity * each.shape[1]), dim=1, largest=False).indices
    return each.scatter(1, smallest, 0).view(weight.shape)


def _prune_2_4(weight: torch.Tensor, matrix: Matrix) -> torch.Tensor:
    """Set the two smallest of every four neighbouring weights along the inputs to zero."""
    rows = _rows(weight, matrix)
    groups = rows.view(-1, 4)
    pruned = groups.scatter(1, groups.abs().topk(2, dim=1, largest=False).indices, 0).view(rows.shape)
    return pruned.mT.contiguous() if matrix.transposed else pruned


def _rows(weight: torch.Tensor, matrix: Matrix) -> torch.Tensor:
    """Return a weight with its inputs along the last dimension."""
    return (weight.mT if matrix.transposed else weight).contiguous()


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


def _verify(job: StepJob, chosen: Mapping[str, Matrix]) -> dict[str, Any]:
    """Read the result back and return its sparsity as facts; raise ``FtregError`` if it is less than configured."""
    assert isinstance(job.config, PruneConfig)
    zeros: Counter[str] = Counter()
    sizes: Counter[str] = Counter()
    count = 0
    result = Checkpoint(job.staging)
    for name, matrix in chosen.items():
        weight = result.read(name)
        zeros[kind_of(name)] += int((weight == 0).sum())
        sizes[kind_of(name)] += weight.numel()
        count += math.prod(weight.shape[:-2])
        if job.config.pattern == "2:4" and int(((_rows(weight, matrix).view(-1, 4) == 0).sum(dim=1) < 2).sum()):
            raise FtregError(f"{name} was written without the pattern 2:4")
    if zeros.total() < sizes.total() * job.config.sparsity - count:
        raise FtregError(f"only {zeros.total()} of {sizes.total()} weights were written as zeros")
    return {
        "sparsity": round(zeros.total() / sizes.total(), 6),
        "sparsity_by_kind": {kind: round(zeros[kind] / size, 6) for kind, size in sizes.items()},
        "pattern": job.config.pattern,
    }
