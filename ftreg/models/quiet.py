"""Calling the model libraries without their output, and with one clear error for files that they cannot use."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path

from transformers.utils import logging as transformers_logging

from ftreg.compat import gptqmodel
from ftreg.core.errors import FtregError, InputError

_VERBOSE = ("accelerate", "optimum", "peft", "torch")

gptqmodel.silence()


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence progress bars, warnings and logs of the model libraries; ``Progress`` is what informs the user."""
    verbosity, bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    levels = {name: logging.getLogger(name).level for name in _VERBOSE}
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    for name in levels:
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if bars:
            transformers_logging.enable_progress_bar()
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)


@contextlib.contextmanager
def loading(what: str, folder: Path) -> Iterator[None]:
    """Load quietly, and raise ``InputError`` naming ``what`` and ``folder`` if a library cannot use the files.

    Running out of memory is not the files' fault: those errors pass through.
    """
    try:
        with quiet():
            yield
    except (FtregError, MemoryError):
        raise
    except Exception as error:
        if type(error).__name__ == "OutOfMemoryError":  # torch's, by name: not everything that loads needs torch
            raise
        reason = " ".join(str(error).split())[:400]
        raise InputError(
            f"{what} cannot be loaded: {type(error).__name__}: {reason}",
            where=str(folder),
            hint="Its files are damaged, incomplete, or of another kind; `registry.verify()` checks stored versions.",
        ) from error
