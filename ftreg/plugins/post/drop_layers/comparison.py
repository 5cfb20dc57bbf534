"""The comparison of a shortened model with its source, whose removed layers are skipped: both compute the same."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ftreg.compat.transformers import caches_keys_and_values
from ftreg.core.errors import FtregError
from ftreg.models.blocks import find_blocks, hidden_states_of
from ftreg.models.inference import load_for_inference
from ftreg.models.quiet import quiet

_LARGEST = {torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 5e-2}
"""Largest difference of the logits of the result and of the source without the layers, relative to their norm."""


@torch.no_grad()
def check_equal(source: Path, dropped: Sequence[int], result: Path) -> None:
    """Compare the result, with its cache, with the source, of which the layers ``dropped`` are skipped.

    Raises:
        FtregError: Their logits differ.
    """
    model = load_for_inference(source, "auto", None)
    ids = torch.randint(model.config.vocab_size, (2, 12), generator=torch.Generator().manual_seed(0))
    with quiet(), _skipping(model, dropped):
        expected = model(input_ids=ids.to(model.device), use_cache=False).logits.float().cpu()
    del model
    model = load_for_inference(result, "auto", None)
    with quiet():
        found = _logits(model, ids.to(model.device)).float().cpu()
    error = float((found - expected).norm() / expected.norm().clamp_min(1e-12))
    if not error <= _LARGEST.get(model.dtype, 1e-4):  # also if it is NaN
        raise FtregError(
            f"the result does not compute what the model computes without these layers: it is off by {error:.2g}",
            hint="This is a model family that drop-layers does not know well enough; please report it.",
        )


def _logits(model: Any, ids: torch.Tensor) -> torch.Tensor:
    """Return the logits, of which the last ones are computed from the model's cache if it keeps keys and values."""
    logits: torch.Tensor
    if not caches_keys_and_values(model):
        logits = model(input_ids=ids, use_cache=False).logits
        return logits
    first = model(input_ids=ids[:, :8], use_cache=True)
    second = model(input_ids=ids[:, 8:], past_key_values=first.past_key_values, use_cache=True)
    return torch.cat([first.logits, second.logits], dim=1)


@contextmanager
def _skipping(model: Any, dropped: Sequence[int]) -> Iterator[None]:
    """While this lasts, the layers ``dropped`` return what they are given."""

    def skip(_block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        entering = hidden_states_of(args, kwargs)
        return entering if isinstance(output, torch.Tensor) else (entering, *output[1:])

    _, blocks = find_blocks(model)
    hooks = [blocks[number].register_forward_hook(skip, with_kwargs=True) for number in dropped]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
