"""Golden prompts: kept with a model, and run on its versions."""

from __future__ import annotations

from pathlib import Path

from ftreg.api.opening import opened
from ftreg.core.types import Progress, Version
from ftreg.pipeline.goldens import GoldenResult, GoldenRun, publish_goldens, run_goldens
from ftreg.registry import Registry

__all__ = ["GoldenResult", "GoldenRun", "check_goldens", "set_goldens"]


def set_goldens(name: str, file: str | Path, *, registry: Registry | None = None) -> Version:
    """Register the golden prompts in ``file`` as the newest of ``name``; they become the version ``NAME-golden``.

    Args:
        name: The model's name.
        file: A YAML list, or JSON Lines, of prompts with what is expected of their answers.
        registry: Where the model is; by default the default registry.

    Raises:
        InputError: The name does not exist, or a prompt cannot be used.
    """
    with opened(registry, None) as context:
        return publish_goldens(context, name, Path(file))


def check_goldens(
    ref: str,
    *,
    engine: str | None = None,
    again: bool = False,
    registry: Registry | None = None,
    progress: Progress | None = None,
) -> GoldenRun:
    """Answer the newest golden prompts of the name of ``ref``, and keep what is wrong with the answers as evidence.

    Args:
        ref: The version.
        engine: The engine to run it with; by default the first that can load it.
        again: Answer them again, even if the results are on record.
        registry: Where to read and to add the evidence; by default the default registry.
        progress: Where to report progress.

    Raises:
        InputError: The version does not exist or cannot be run, or its name has no golden prompts.
    """
    with opened(registry, progress) as context:
        return run_goldens(context, ref, engine=engine, again=again)
