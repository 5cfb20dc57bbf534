"""Training: the one trainer that all methods share, and how models are loaded and saved.

The names below are imported when they are used, because ``describe`` works without torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ftreg.training.base import BaseConfig, create_base
    from ftreg.training.facts import describe
    from ftreg.training.fitting import fit
    from ftreg.training.loading import (
        compute_dtype,
        keep_4bit_layout,
        load_encoder,
        load_model,
        load_tokenizer,
        quiet,
        resolve_device,
    )
    from ftreg.training.saving import save_adapter, save_checkpoint

_HOMES = {
    "BaseConfig": "ftreg.training.base",
    "compute_dtype": "ftreg.training.loading",
    "create_base": "ftreg.training.base",
    "describe": "ftreg.training.facts",
    "fit": "ftreg.training.fitting",
    "keep_4bit_layout": "ftreg.training.loading",
    "load_encoder": "ftreg.training.loading",
    "load_model": "ftreg.training.loading",
    "load_tokenizer": "ftreg.training.loading",
    "quiet": "ftreg.training.loading",
    "resolve_device": "ftreg.training.loading",
    "save_adapter": "ftreg.training.saving",
    "save_checkpoint": "ftreg.training.saving",
}

__all__ = [
    "BaseConfig",
    "compute_dtype",
    "create_base",
    "describe",
    "fit",
    "keep_4bit_layout",
    "load_encoder",
    "load_model",
    "load_tokenizer",
    "quiet",
    "resolve_device",
    "save_adapter",
    "save_checkpoint",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'ftreg.training' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
