"""Block influence: how much each decoder layer changes the hidden states.

It is one minus the cosine of the hidden states that enter a layer and those that leave it, averaged over the tokens of
a text (Men et al., "ShortGPT", 2024, https://arxiv.org/abs/2403.03853).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from ftreg.core.types import Progress
from ftreg.models.blocks import find_blocks, hidden_states_of, written_by
from ftreg.models.quiet import quiet

_BATCH = 4
"""Rows of calibration text that are computed together."""


@torch.no_grad()
def block_influences(model: Any, text: torch.Tensor, progress: Progress) -> list[float]:
    """Return the block influence of each decoder layer.

    Args:
        model: The model.
        text: Token ids of shape (rows, tokens).
        progress: Is told how many rows are done.
    """
    _, blocks = find_blocks(model)
    cosines = [0.0] * len(blocks)

    def observe(number: int) -> Callable[..., None]:
        def add(_block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
            entering, leaving = hidden_states_of(args, kwargs), written_by(output)
            cosine = functional.cosine_similarity(entering.double(), leaving.double(), dim=-1)
            cosines[number] += float(cosine.sum())

        return add

    hooks = [block.register_forward_hook(observe(number), with_kwargs=True) for number, block in enumerate(blocks)]
    progress.begin("measuring the influence of layers", len(text), unit="rows")
    try:
        for start in range(0, len(text), _BATCH):
            with quiet():
                model.base_model(input_ids=text[start : start + _BATCH].to(model.device), use_cache=False)
            progress.update(min(start + _BATCH, len(text)))
    finally:
        for hook in hooks:
            hook.remove()
    progress.end()
    return [1 - total / text.numel() for total in cosines]
