"""ftreg: fine-tune, register, ship. Everything the command line does, as functions.

The names below are loaded when they are used, so that ``import ftreg`` stays cheap. ``ftreg.api`` has the others.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ftreg.api.deployments import deploy, serve
    from ftreg.api.distillation import distill
    from ftreg.api.evaluation import compare, evaluate
    from ftreg.api.experiments import promote, report, rollback, set_weights, status
    from ftreg.api.goldens import check_goldens, set_goldens
    from ftreg.api.history import bisect, replay
    from ftreg.api.steps import apply, export, merge, prune, quantize
    from ftreg.api.suites import run_suite
    from ftreg.api.training import init, plan, run, train
    from ftreg.api.upkeep import du, evict, restore
    from ftreg.api.versions import card, lineage
    from ftreg.core.errors import FtregError
    from ftreg.core.host import PluginHost
    from ftreg.core.types import Version
    from ftreg.registry import Registry

__version__ = "0.1.0"

_HOMES = {
    "FtregError": "ftreg.core.errors",
    "PluginHost": "ftreg.core.host",
    "Registry": "ftreg.registry",
    "Version": "ftreg.core.types",
    "apply": "ftreg.api.steps",
    "bisect": "ftreg.api.history",
    "card": "ftreg.api.versions",
    "check_goldens": "ftreg.api.goldens",
    "compare": "ftreg.api.evaluation",
    "deploy": "ftreg.api.deployments",
    "distill": "ftreg.api.distillation",
    "du": "ftreg.api.upkeep",
    "evaluate": "ftreg.api.evaluation",
    "evict": "ftreg.api.upkeep",
    "export": "ftreg.api.steps",
    "init": "ftreg.api.training",
    "lineage": "ftreg.api.versions",
    "merge": "ftreg.api.steps",
    "plan": "ftreg.api.training",
    "promote": "ftreg.api.experiments",
    "prune": "ftreg.api.steps",
    "quantize": "ftreg.api.steps",
    "replay": "ftreg.api.history",
    "report": "ftreg.api.experiments",
    "restore": "ftreg.api.upkeep",
    "rollback": "ftreg.api.experiments",
    "run": "ftreg.api.training",
    "run_suite": "ftreg.api.suites",
    "serve": "ftreg.api.deployments",
    "set_goldens": "ftreg.api.goldens",
    "set_weights": "ftreg.api.experiments",
    "status": "ftreg.api.experiments",
    "train": "ftreg.api.training",
}

__all__ = [
    "FtregError",
    "PluginHost",
    "Registry",
    "Version",
    "apply",
    "bisect",
    "card",
    "check_goldens",
    "compare",
    "deploy",
    "distill",
    "du",
    "evaluate",
    "evict",
    "export",
    "init",
    "lineage",
    "merge",
    "plan",
    "promote",
    "prune",
    "quantize",
    "replay",
    "report",
    "restore",
    "rollback",
    "run",
    "run_suite",
    "serve",
    "set_goldens",
    "set_weights",
    "status",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'ftreg' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
