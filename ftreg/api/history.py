"""History: does again what made a version, and finds the step at which a model lost its quality."""

from __future__ import annotations

from ftreg.api.opening import opened
from ftreg.core.types import Progress
from ftreg.pipeline.replay import Change, FileComparison, Replay, replay_version
from ftreg.registry import Registry

__all__ = ["Change", "FileComparison", "Replay", "replay"]


def replay(
    ref: str, *, kl: float | None = None, registry: Registry | None = None, progress: Progress | None = None
) -> Replay:
    """Do again what made the version ``ref``, compare the result with it, and keep the grade as evidence.

    The work is done from the recorded inputs, configuration and seed, with the packages that are installed now. Nothing
    is published.

    Args:
        ref: A version that was trained, created or made by a step.
        kl: Largest mean KL divergence from the version, in nats per token, of a result that is within tolerance though
            its files differ; by default the tolerance of the step, or 0.01 with 99 % top-1 agreement and a loss that is
            0.01 higher at most.
        registry: Where to read the version and to add the evidence; by default the default registry.
        progress: Where to report progress.

    Raises:
        InputError: The version was imported, or its plugin is not installed.
        CorruptRegistry: An input of the work is damaged.
    """
    with opened(registry, progress) as context:
        return replay_version(context, ref, kl=kl)
