"""Merging PEFT adapters with the whole base in memory, for bases and adapters that cannot be streamed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from ftreg.models.loading import load_pretrained
from ftreg.plugins.post.adapters import Transform, attach, merging
from ftreg.plugins.post.config import MergeConfig
from ftreg.plugins.post.mergeable import Adapters


@torch.no_grad()
def merge_in_memory(
    folder: Path, adapters: Adapters, config: MergeConfig, seed: int, transform: Transform | None = None
) -> Any:
    """Merge in float32, and return the merged model.

    Args:
        folder: The base.
        adapters: What to merge; checked by ``check_mergeable``.
        config: How several adapters are combined.
        seed: Seed of the combinations that drop values at random.
        transform: Applied to the base's weights first.

    Raises:
        InputError: An adapter belongs to another base, or files are damaged.
    """
    model = load_pretrained(folder, device="cpu", dtype=torch.float32)
    if transform is not None:
        for name, parameter in model.named_parameters():
            parameter.data = transform(name, parameter.data)
    head = model.get_output_embeddings()
    if tied := head is not None and head.weight is model.get_input_embeddings().weight:
        # PEFT would merge into the shared weight what belongs to one of the two.
        head.weight = nn.Parameter(head.weight.clone())
    peft_model = attach(model, adapters, config, folder, streamed=False, seed=seed)
    with merging("this type of adapter"):
        model = peft_model.merge_and_unload(safe_merge=True)
        same = tied and torch.equal(model.get_output_embeddings().weight, model.get_input_embeddings().weight)
        model.config.tie_word_embeddings = same
        model.tie_weights()
    return model
