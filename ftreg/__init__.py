"""ftreg: fine-tune, register, ship. Everything the command line does, as functions.

The names below are loaded when they are used, so that ``import ftreg`` stays cheap.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ftreg.api import apply, deploy, evaluate, export, init, merge, prune, quantize, run, train
    from ftreg.core.errors import FtregError
    from ftreg.registry import Registry

__version__ = "0.1.0"

_HOMES = {
    "FtregError": "ftreg.core.errors",
    "Registry": "ftreg.registry",
    "apply": "ftreg.api",
    "deploy": "ftreg.api",
    "evaluate": "ftreg.api",
    "export": "ftreg.api",
    "init": "ftreg.api",
    "merge": "ftreg.api",
    "prune": "ftreg.api",
    "quantize": "ftreg.api",
    "run": "ftreg.api",
    "train": "ftreg.api",
}

__all__ = [
    "FtregError",
    "Registry",
    "apply",
    "deploy",
    "evaluate",
    "export",
    "init",
    "merge",
    "prune",
    "quantize",
    "run",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'ftreg' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
