"""Step ``prune``: prunes by the configured criterion, and counts the zeros in what was written.

The matrices of linear layers and of experts are pruned; embeddings, the output head, routers, norms and biases are not.
The result has the size and the speed of its source: only formats and kernels for sparse weights gain from zeros, such
as 2:4 on sparse tensor cores.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

from ftreg.core.errors import FtregError
from ftreg.core.types import CHECKPOINT, Artifact, StepJob
from ftreg.models.blocks import find_blocks
from ftreg.models.checkpoint import Checkpoint, copy_config
from ftreg.models.facts import describe
from ftreg.models.matrices import Matrix
from ftreg.models.skeleton import load_skeleton
from ftreg.models.sparsity import Sparsity, count_zeros
from ftreg.models.tokenizer import copy_tokenizer
from ftreg.plugins.post.config import PruneConfig
from ftreg.plugins.post.prune.magnitude import choose, prune_by_magnitude
from ftreg.plugins.post.prune.masks import check_pattern
from ftreg.plugins.post.prune.wanda import prune_by_wanda
from ftreg.plugins.post.tolerance import without_share


def check(folder: Path, config: PruneConfig) -> None:
    """Raise ``InfeasiblePlan`` if the model in ``folder`` cannot be pruned in this way."""
    choose(Checkpoint(folder), config)
    if config.criterion == "wanda":
        find_blocks(load_skeleton(folder))


def apply(job: StepJob) -> Artifact:
    """Prune ``job.source`` to the configured sparsity, and count the zeros in what was written.

    Raises:
        InfeasiblePlan: The checkpoint is quantized, it has no matrix that the pattern fits, or the criterion needs
            data and the lineage has none.
        InputError: Files are damaged.
        FtregError: The result is less sparse than configured.
    """
    assert isinstance(job.config, PruneConfig)
    source = Checkpoint(job.source.path)
    source.require_full_precision("prune")
    by = prune_by_wanda if job.config.criterion == "wanda" else prune_by_magnitude
    pruned, covered = by(job, source, job.config)
    covered.warn(job.progress, "pruned")
    copy_config(job.staging, source)
    copy_tokenizer(job.staging, job.source.path)
    sparsity = _verify(Checkpoint(job.staging), pruned, job.config)
    facts = {
        **describe(job.staging),
        "pruned": covered.facts(),
        **sparsity.facts(),
        "pattern": job.config.pattern,
        "criterion": job.config.criterion,
    }
    return Artifact(kind=CHECKPOINT, facts=facts, tolerance=without_share(job.config.sparsity))


def _verify(result: Checkpoint, pruned: Mapping[str, Matrix], config: PruneConfig) -> Sparsity:
    """Read the result back and count its zeros; raise ``FtregError`` if they are fewer than configured."""
    for name, matrix in pruned.items():
        weight = result.read(name)
        check_pattern(name, weight.mT if matrix.transposed else weight, config)
    found = count_zeros(result, pruned)
    # Each group of weights that are compared with one another, a row or a matrix, rounds its share.
    each = -1 if config.criterion == "wanda" else -2
    groups = sum(math.prod(result.tensors[name].shape[:each]) for name in pruned)
    if found.zeros < found.size * config.sparsity - groups / 2:
        raise FtregError(f"only {found.zeros} of {found.size} weights were written as zeros")
    return found
