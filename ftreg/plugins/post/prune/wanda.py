"""Wanda: pruning by weights and activations (Sun et al., 2023, https://arxiv.org/abs/2306.11695).

A weight's score is its magnitude times the L2 norm, over all tokens of the calibration text, of the input that it is
multiplied with; the weights of lowest score in each row of outputs become zero. Layer after layer of the decoder is
pruned, and each reads what the pruned ones before it write.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from ftreg.core.errors import InfeasiblePlan
from ftreg.core.types import Progress, StepJob
from ftreg.models.blocks import find_blocks
from ftreg.models.checkpoint import Checkpoint
from ftreg.models.inference import load_for_inference
from ftreg.models.matrices import Coverage, Matrix, coverage, matrices, stored_matrices
from ftreg.models.quiet import quiet
from ftreg.plugins.post.calibration import calibration_rows
from ftreg.plugins.post.config import PruneConfig
from ftreg.plugins.post.prune.inputs import InputNorms
from ftreg.plugins.post.prune.masks import least_of_rows, require_width


def prune_by_wanda(job: StepJob, source: Checkpoint, config: PruneConfig) -> tuple[dict[str, Matrix], Coverage]:
    """Write the pruned weights of ``source`` into ``job.staging``, with the whole model in memory.

    Returns:
        The matrices that were pruned, by their names on disk, and how much of the model they are.

    Raises:
        InfeasiblePlan: The lineage has no text, the decoder layers cannot be told, the inputs of no matrix can be
            observed, or the pattern does not divide those of one.
    """
    text = calibration_rows(job, config, needed_by="criterion wanda", instead="Criterion magnitude needs none.")
    model = load_for_inference(source.folder, "auto", None)
    pruned = prune_model(model, text, config, job.progress)
    if not pruned:
        raise InfeasiblePlan("no input of a linear layer of this model can be observed", where=job.source.ref)
    with quiet():
        model.to(source.dtype).save_pretrained(job.staging)
    result = Checkpoint(job.staging)
    return stored_matrices(model, result.tensors, pruned), coverage(matrices(model), pruned)


@torch.no_grad()
def prune_model(model: Any, text: torch.Tensor, config: PruneConfig, progress: Progress) -> dict[str, Matrix]:
    """Prune the decoder layers of a model in place, one after the other, in a single pass over the text.

    Args:
        model: The model.
        text: Token ids of shape (rows, tokens).
        config: The pattern, or the share.
        progress: Is told how many layers are pruned, and how many experts no token of the text was routed to; those
            are pruned by magnitude.

    Returns:
        The matrices that were pruned, by their names in the model. One that the model does not multiply its inputs
        with in a known way is left as it is.
    """
    path, blocks = find_blocks(model)
    known = {name: matrix for name, matrix in matrices(model).items() if matrix.layer}
    pruned: dict[str, Matrix] = {}
    unseen = 0

    def prune_first(number: int, block: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """Observe a layer on what it is about to read, and prune it before it computes that."""
        nonlocal unseen
        own = {name: model.get_parameter(name).data for name in known if name.startswith(f"{path}.{number}.")}
        with InputNorms(own) as norms:
            block.forward(*args, **kwargs)
        for name, inputs in norms.seen.items():
            require_width(name, inputs.squares.shape[-1], config)
            rows = own[name].mT if inputs.transposed else own[name]
            unseen += prune_rows(rows, inputs.squares.sqrt(), config)
            pruned[name] = replace(known[name], transposed=inputs.transposed)
        progress.update(number + 1)

    with quiet():
        model.set_experts_implementation("eager")  # the others multiply with all experts at once
    hooks = [
        block.register_forward_pre_hook(
            lambda module, args, kwargs, number=number: prune_first(number, module, args, kwargs), with_kwargs=True
        )
        for number, block in enumerate(blocks)
    ]
    progress.begin("pruning", len(blocks), unit="layers")
    try:
        with quiet():
            model.base_model(input_ids=text.to(model.device), use_cache=False)
    finally:
        for hook in hooks:
            hook.remove()
    progress.end()
    if unseen:
        progress.say(
            f"warning: no token of the calibration text was routed to {unseen} experts' matrices; they are pruned by "
            "magnitude"
        )
    return pruned


def prune_rows(rows: torch.Tensor, norms: torch.Tensor, config: PruneConfig) -> int:
    """Prune a matrix, or a stack of matrices, in place; return how many of them were multiplied with nothing.

    Args:
        rows: The weights, of shape (outputs, inputs) or (matrices, outputs, inputs).
        norms: The L2 norm of each input, of shape (matrices, inputs).
        config: The pattern, or the share.
    """
    unseen = norms.amax(dim=1) == 0
    norms = norms.masked_fill(unseen[:, None], 1)
    scores = rows.float().abs() * (norms[:, None] if rows.dim() == 3 else norms)
    rows.masked_fill_(least_of_rows(scores, config), 0)
    return int(unseen.sum())
