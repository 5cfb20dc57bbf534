"""Resuming: the folder that keeps the checkpoints of a run until its result is published."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ftreg.core.errors import InputError, RegistryBusy
from ftreg.core.types import Progress
from ftreg.registry.home import try_lock
from ftreg.training.checkpoints import newest_checkpoint, step_of


@contextmanager
def run_folder(folder: Path, *, resume: bool, progress: Progress) -> Iterator[Path]:
    """Hold a run's folder for this process; remove it when the block succeeds, keep its checkpoints when it fails.

    Without ``resume``, checkpoints of an interrupted run stay until the new run writes its first.

    Args:
        folder: The folder; the same for the same inputs and settings.
        resume: Whether the run goes on from a checkpoint, which must be there.
        progress: Where to tell what is there, and what is kept.

    Raises:
        RegistryBusy: Another process is running the same run.
        InputError: There is nothing to resume.
    """
    lock = _lock(folder)
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
            shutil.rmtree(folder, ignore_errors=True)
        else:
            progress.say(
                f"the checkpoint of step {step_of(kept)} was kept; to continue from it, run the same again with "
                "`resume=True`"
            )
        raise
    else:
        shutil.rmtree(folder, ignore_errors=True)
    finally:
        os.close(lock)


def _lock(folder: Path) -> int:
    """Create a run's folder and lock it until the returned file is closed."""
    path = folder / "lock"
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except FileNotFoundError:  # the folder's owner has just finished and removed it
            continue
        if not try_lock(file, exclusive=True):
            os.close(file)
            raise RegistryBusy(
                "another process is already training this run",
                where=str(folder),
                hint="Wait for it, or change a setting, such as train.seed.",
            )
        if os.fstat(file).st_nlink:
            return file
        os.close(file)  # removed in the meantime, together with the folder
