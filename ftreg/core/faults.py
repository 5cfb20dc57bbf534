"""Faults of the machine, as ftreg's own errors: a full disk, no permission, no memory, a package not installed."""

from __future__ import annotations

import errno
import shutil
from pathlib import Path

from ftreg.core.errors import DiskFull, FtregError, OutOfMemory, PluginError
from ftreg.core.extras import missing_extra

_NO_ROOM = 1 << 16  # bytes; a library that could not write for lack of space leaves less than this free
_MEMORY_ERRORS = ("OutOfMemoryError", "MemoryError")
_WRITE_ERRORS = ("RuntimeError", "SafetensorError")


def fault_of(error: BaseException, folder: Path) -> FtregError | None:
    """Return the ftreg error for a fault of the machine behind ``error``; None if there is none.

    torch and safetensors hide the system's error number, so for their errors the free space of the disk decides. For a
    ``PluginError``, the error that happened inside the plugin decides.

    Args:
        error: What was raised.
        folder: The folder that the work writes into.
    """
    if isinstance(error, PluginError) and error.__cause__ is not None:
        error = error.__cause__
    kind = type(error).__name__
    if isinstance(error, ModuleNotFoundError):
        return missing_extra(error)
    if isinstance(error, OSError):
        return _of_system(error, folder)
    if kind in _MEMORY_ERRORS or "can't allocate memory" in str(error):
        return OutOfMemory(
            "out of memory; nothing was published",
            hint="Try a smaller train.batch_size or train.max_length, or train.gradient_checkpointing=true.",
        )
    if kind in _WRITE_ERRORS and ("No space left" in str(error) or _free(folder) < _NO_ROOM):
        return disk_full(str(folder))
    return None


def disk_full(where: str) -> DiskFull:
    """Return the error for a full disk."""
    return DiskFull(
        "the disk is full; nothing was published",
        where=where,
        hint="Free some space and try again; `registry.gc(dry_run=True)` says what the registry can free.",
    )


def read_only(where: str) -> FtregError:
    """Return the error for a registry that cannot be written."""
    return FtregError(
        "the registry cannot be written here: it is read-only",
        where=where,
        hint="Choose another with `home` or $FTREG_HOME, or change the permissions.",
    )


def _of_system(error: OSError, folder: Path) -> FtregError | None:
    where = str(error.filename or folder)
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return disk_full(where)
    if error.errno == errno.EROFS:
        return read_only(where)
    if error.errno in (errno.EACCES, errno.EPERM):
        return FtregError(
            "permission denied", where=where, hint="Check who owns it, or choose another registry with `home`."
        )
    return None


def _free(folder: Path) -> int:
    """Return the free bytes on the disk of ``folder``; enough if that is not known."""
    try:
        return shutil.disk_usage(folder).free
    except OSError:
        return _NO_ROOM
