"""Run folders: what a training keeps until its result is published, held by one process at a time.

A run's folder is ``runs/<cache key>``. Its owner holds a lock on the file ``lock`` in it, which names the model that is
trained; the operating system drops the lock when the process ends. The rest is the run's own, and is needed only to
resume it.
"""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from pathlib import Path

from ftreg.core.errors import RegistryBusy
from ftreg.registry.catalog import Catalog
from ftreg.registry.home import Home, try_lock
from ftreg.registry.records import RunFolder, RunState, timestamp

_LOCK = "lock"


def hold_run(folder: Path, name: str) -> int:
    """Create the folder of a run that trains ``name``, and lock it until the returned file is closed.

    Raises:
        RegistryBusy: Another process holds it.
    """
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            file = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
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
            os.truncate(file, 0)
            os.write(file, f"{name}\n".encode())
            return file
        os.close(file)  # removed in the meantime, together with the folder


def remove_run(folder: Path) -> None:
    """Remove a run's folder; the caller holds its lock.

    The lock goes last: whoever creates the folder again in between gets an empty one, and keeps it.
    """
    for path in folder.glob("*"):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        elif path.name != _LOCK:
            path.unlink(missing_ok=True)
    with suppress(OSError):
        (folder / _LOCK).unlink()
        folder.rmdir()


def free_run(folder: Path) -> None:
    """Remove the folder of a run unless a process holds it."""
    lock = _try_hold(folder)
    if lock is not None:
        remove_run(folder)
        os.close(lock)


def find_runs(home: Home, catalog: Catalog) -> list[RunFolder]:
    """Return all run folders, the one that was written last first."""
    found = [_describe(folder, catalog) for folder in home.runs.glob("*/")]
    return sorted(found, key=lambda run: run.written, reverse=True)


def _describe(folder: Path, catalog: Catalog) -> RunFolder:
    size, written = _measure(folder)
    lock = _try_hold(folder)
    if lock is None:
        state: RunState = "running"
    else:
        os.close(lock)
        is_published = bool(catalog.versions(cache_key=folder.name, limit=1))
        state = "published" if is_published else "unfinished" if size else "empty"
    name = ""
    with suppress(FileNotFoundError):
        name = (folder / _LOCK).read_text(encoding="utf-8").strip()
    return RunFolder(folder, name, size, timestamp(written), state)


def _try_hold(folder: Path) -> int | None:
    """Lock a run's folder until the returned file is closed; return None if a process holds it, or it is gone."""
    try:
        file = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except FileNotFoundError:
        return None
    if try_lock(file, exclusive=True):
        return file
    os.close(file)
    return None


def _measure(folder: Path) -> tuple[int, float]:
    """Return the bytes in a run's folder and when it was last written; its owner may be writing at the same time."""
    sizes: dict[int, int] = {}
    written = 0.0
    for root, _, names in os.walk(folder):
        for path in (Path(root, name) for name in names):
            with suppress(FileNotFoundError):
                status = path.lstat()
                written = max(written, status.st_mtime)
                if path != folder / _LOCK:
                    sizes[status.st_ino] = status.st_size  # the best weights may be there twice, linked
    return sum(sizes.values()), written
