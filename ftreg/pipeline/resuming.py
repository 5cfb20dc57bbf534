"""Resuming: the folder that keeps the checkpoints of a run until its result is published."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ftreg.core.errors import InputError
from ftreg.core.types import Progress
from ftreg.registry.runs import hold_run, remove_run
from ftreg.training.checkpoints import newest_checkpoint, step_of


@contextmanager
def run_folder(folder: Path, name: str, *, resume: bool, progress: Progress) -> Iterator[Path]:
    """Hold a run's folder for this process; remove it when the block succeeds, keep its checkpoints when it fails.

    Without ``resume``, checkpoints of an interrupted run stay until the new run writes its first.

    Args:
        folder: The folder; the same for the same inputs and settings.
        name: The name of the model that is trained.
        resume: Whether the run goes on from a checkpoint, which must be there.
        progress: Where to tell what is there, and what is kept.

    Raises:
        RegistryBusy: Another process is running the same run.
        InputError: There is nothing to resume.
    """
    lock = hold_run(folder, name)
    try:
        found = newest_checkpoint(folder)
        if resume and found is None:
            raise InputError(
                "there is no interrupted run with this base, data and settings",
                where="resume",
                hint="Leave `resume` out.",
            )
        if found is not None and not resume:
            progress.say(
                f"this run was interrupted earlier and left a checkpoint of step {step_of(found)}; now it starts over. "
                "To continue from the checkpoint instead, press Ctrl-C and add `resume=True`"
            )
        yield folder
    except BaseException:
        kept = newest_checkpoint(folder)
        if kept is None:
            remove_run(folder)
        else:
            progress.say(
                f"the checkpoint of step {step_of(kept)} was kept; to continue from it, run the same again with "
                "`resume=True`"
            )
        raise
    else:
        remove_run(folder)
    finally:
        os.close(lock)
