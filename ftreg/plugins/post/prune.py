"""Step ``prune``: sets the weights of smallest magnitude to zero (Han et al., 2015, https://arxiv.org/abs/1506.02626).

The matrices of linear layers are pruned; embeddings, the output head, norms and biases are not. The result has the size
and the speed of its source: only formats and kernels for sparse weights gain from zeros, such as 2:4 on sparse tensor
cores.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch

from ftreg.core.errors import FtregError, InfeasiblePlan
from ftreg.core.types import CHECKPOINT, Artifact, StepJob, Tolerance
from ftreg.models.checkpoint import Checkpoint, copy_config
from ftreg.models.facts import describe
from ftreg.models.skeleton import linear_weights, load_skeleton, model_names
from ftreg.models.tensors import write_weights
from ftreg.models.tokenizer import copy_tokenizer
from ftreg.plugins.post.config import PruneConfig


def apply(job: StepJob) -> Artifact:
    """Prune ``job.source`` to the configured sparsity, and count the zeros in what was written.

    Raises:
        InfeasiblePlan: The checkpoint is quantized, or has no linear layer that the pattern fits.
        InputError: Files are damaged.
        FtregError: The result is less sparse than configured.
    """
    assert isinstance(job.config, PruneConfig)
    source = Checkpoint(job.source.path)
    source.require_full_precision("prune")
    layers = _prunable(source, job.config)
    if not layers:
        raise InfeasiblePlan(f"{job.source.ref} has no linear layer to prune", where="prune")
    pruner = _pruner(source, layers, job.config)

    def tensors() -> Iterator[tuple[str, torch.Tensor]]:
        for done, name in enumerate(source.tensors, start=1):
            tensor = source.read(name)
            yield name, pruner(tensor, layers[name]) if name in layers else tensor
            job.progress.update(done)

    job.progress.begin("pruning", len(source.tensors), unit="tensors")
    write_weights(job.staging, source.tensors, tensors())
    job.progress.end()
    copy_config(job.staging, source)
    copy_tokenizer(job.staging, job.source.path)
    return Artifact(
        kind=CHECKPOINT,
        facts={**describe(job.staging), **_verify(job, layers)},
        tolerance=tolerance(job.config.sparsity),
    )


def tolerance(sparsity: float) -> Tolerance:
    """Return what pruning may cost: at sparsity ``s`` a mean KL of ``s``, a loss of ``s / 2``, and top-1 ``1 - s``.

    Pruning is expected to cost something; these limits refuse a result whose cost is out of proportion.
    """
    return Tolerance(kl=sparsity, top1=1 - sparsity, loss_delta=sparsity / 2)


def _prunable(source: Checkpoint, config: PruneConfig) -> dict[str, bool]:
    """Return the matrices to prune by name on disk, each with whether it is transposed, that is, stored as (in, out).

    Raises:
        InfeasiblePlan: The pattern does not divide a matrix.
    """
    model = load_skeleton(source.folder)
    linear = linear_weights(model)
    found = {stored: linear[name] for stored, name in model_names(model, source.tensors).items() if name in linear}
    for name, transposed in found.items():
        inputs = source.tensors[name].shape[0 if transposed else -1]
        if config.pattern == "2:4" and inputs % 4:
            raise InfeasiblePlan(
                f"{name} has {inputs} inputs, and the pattern 2:4 needs a multiple of 4", where="prune"
            )
    return found


def _pruner(source: Checkpoint, layers: Mapping[str, bool], config: PruneConfig) -> Any:
    """Return the function ``(weight, transposed) -> pruned weight`` for the configuration."""
    if config.pattern == "2:4":
        return _prune_2_4
    if config.scope == "global":
        return _GlobalPruner(source, layers, config.sparsity)
    return lambda weight, _transposed: _prune_smallest(weight, round(config.sparsity * weight.numel()))


def _prune_smallest(weight: torch.Tensor, count: int) -> torch.Tensor:
    """Set the ``count`` values of smallest magnitude to zero."""
    pruned = weight.clone()
    pruned.view(-1)[weight.abs().flatten().topk(count, largest=False).indices] = 0
    return pruned


def _prune_2_4(weight: torch.Tensor, transposed: bool) -> torch.Tensor:
    """Set the two smallest of every four neighbouring weights along the inputs to zero."""
    rows = (weight.T if transposed else weight).contiguous()
    groups = rows.view(-1, 4)
    pruned = groups.scatter(1, groups.abs().topk(2, dim=1, largest=False).indices, 0).view(rows.shape)
    return pruned.T.contiguous() if transposed else pruned


class _GlobalPruner:
    """Sets the smallest weights of all layers together to zero, exactly as many as configured.

    The threshold is found in two passes over the files, each a histogram of 16 bits of the magnitudes, whose float32
    bits sort as their values do; so only the counts are held in memory.
    """

    def __init__(self, source: Checkpoint, layers: Mapping[str, bool], sparsity: float) -> None:
        total = sum(source.read(name).numel() for name in layers)
        rank = round(sparsity * total)
        high, rank = self._bin(source, layers, rank, None)
        low, self._ties = self._bin(source, layers, rank, high)
        self._threshold = (high << 16) | low

    def __call__(self, weight: torch.Tensor, _transposed: bool) -> torch.Tensor:
        """Prune the next layer; of weights that equal the threshold, the first are pruned until there are enough."""
        bits = _magnitude_bits(weight)
        pruned = weight.clone()
        pruned.view(-1)[bits < self._threshold] = 0
        ties = (bits == self._threshold).nonzero()[: self._ties, 0]
        pruned.view(-1)[ties] = 0
        self._ties -= len(ties)
        return pruned

    @staticmethod
    def _bin(source: Checkpoint, layers: Mapping[str, bool], rank: int, high: int | None) -> tuple[int, int]:
        """Return 16 bits of the value of this ``rank``, and its rank among the values that share them."""
        counts = torch.zeros(1 << 16, dtype=torch.int64)
        for name in layers:
            bits = _magnitude_bits(source.read(name))
            part = bits >> 16 if high is None else bits[bits >> 16 == high] & 0xFFFF
            counts += torch.bincount(part, minlength=1 << 16)
        before = counts.cumsum(0)
        index = int(torch.searchsorted(before, rank))
        return index, rank - int(before[index] - counts[index])


def _magnitude_bits(weight: torch.Tensor) -> torch.Tensor:
    """Return the magnitudes' float32 bits as integers, which sort as the magnitudes do."""
    return weight.float().abs().flatten().contiguous().view(torch.int32)


def _verify(job: StepJob, layers: Mapping[str, bool]) -> dict[str, Any]:
    """Read the result back and return its sparsity as facts; raise ``FtregError`` if it is less than configured."""
    assert isinstance(job.config, PruneConfig)
    zeros: dict[str, int] = {}
    sizes: dict[str, int] = {}
    result = Checkpoint(job.staging)
    for name, transposed in layers.items():
        weight = result.read(name)
        zeros[name], sizes[name] = int((weight == 0).sum()), weight.numel()
        rows = (weight.T if transposed else weight).contiguous()
        if job.config.pattern == "2:4" and int(((rows.view(-1, 4) == 0).sum(dim=1) < 2).sum()):
            raise FtregError(f"{name} was written without the pattern 2:4")
    if sum(zeros.values()) < sum(sizes.values()) * job.config.sparsity - len(layers):
        raise FtregError(f"only {sum(zeros.values())} of {sum(sizes.values())} weights were written as zeros")
    return {
        "sparsity": round(sum(zeros.values()) / sum(sizes.values()), 6),
        "sparsity_by_layer": {name: round(zeros[name] / sizes[name], 6) for name in layers},
        "prunable_parameters": sum(sizes.values()),
        "pattern": job.config.pattern,
    }
