"""Training: the one trainer that all methods share, and how models are loaded and saved.

The names below are loaded when they are used, since torch takes seconds to import.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ftreg.training.base import BaseConfig, create_base
    from ftreg.training.checks import check_settings
    from ftreg.training.fitting import fit
    from ftreg.training.loading import compute_dtype, load_encoder, load_model, resolve_device
    from ftreg.training.saving import save_adapter, save_checkpoint

_HOMES = {
    "BaseConfig": "ftreg.training.base",
    "check_settings": "ftreg.training.checks",
    "compute_dtype": "ftreg.training.loading",
    "create_base": "ftreg.training.base",
    "fit": "ftreg.training.fitting",
    "load_encoder": "ftreg.training.loading",
    "load_model": "ftreg.training.loading",
    "resolve_device": "ftreg.training.loading",
    "save_adapter": "ftreg.training.saving",
    "save_checkpoint": "ftreg.training.saving",
}

__all__ = [
    "BaseConfig",
    "check_settings",
    "compute_dtype",
    "create_base",
    "fit",
    "load_encoder",
    "load_model",
    "resolve_device",
    "save_adapter",
    "save_checkpoint",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'ftreg.training' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
