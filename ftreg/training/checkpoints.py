"""Checkpoints: what a run's folder holds so that the run can go on after its process has died.

A checkpoint is written below ``unfinished`` and gets its name, ``checkpoint-STEP``, once all of it is on the disk. What
has such a name is therefore complete, whenever the process was killed or the machine lost power.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

UNFINISHED = "unfinished"
"""Folder, within a run's folder, in which a checkpoint is written."""

_PREFIX = "checkpoint-"


def newest_checkpoint(folder: Path) -> Path | None:
    """Return the checkpoint of the highest step in a run's folder, or None if there is none."""
    return max(_checkpoints(folder), key=step_of, default=None)


def step_of(checkpoint: Path) -> int:
    """Return the number of optimizer steps that had been done when ``checkpoint`` was written."""
    return int(checkpoint.name.removeprefix(_PREFIX))


def commit_checkpoint(folder: Path, step: int) -> None:
    """Make the checkpoint that was written below ``unfinished`` durable, name it, and remove all others."""
    written, final = folder / UNFINISHED / f"{_PREFIX}{step}", folder / f"{_PREFIX}{step}"
    for path in (*written.iterdir(), written):
        _sync(path)
    earlier = _checkpoints(folder)
    if final in earlier:
        _remove(final)
    written.rename(final)
    _sync(folder)
    for path in earlier:
        if path != final:
            _remove(path)


def link_or_copy(source: Path, target: Path) -> None:
    """Give ``target`` the content of ``source``, without copying if the file system can."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _checkpoints(folder: Path) -> list[Path]:
    return list(folder.glob(f"{_PREFIX}*"))


def _remove(checkpoint: Path) -> None:
    """Remove a checkpoint, which loses its name first, so that a part of it is never taken for the whole."""
    doomed = checkpoint.parent / UNFINISHED / f"removed-{checkpoint.name}"
    checkpoint.rename(doomed)
    shutil.rmtree(doomed, ignore_errors=True)


def _sync(path: Path) -> None:
    """Wait until a file's content, or a folder's names, are on the disk."""
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)
