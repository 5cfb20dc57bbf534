"""lm-eval: without its output, and in this process alone."""

from __future__ import annotations

import io
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from typing import Any
from unittest.mock import patch

from ftreg.core.requirements import Requirement

LM_EVAL = Requirement("lm-eval", "ftreg[bench]", module="lm_eval")

_VERBOSE = ("lm_eval", "datasets", "evaluate", "huggingface_hub")


@contextmanager
def quiet() -> Iterator[None]:
    """Discard what lm-eval, ``datasets`` and a task's own code print, log and draw.

    Standard errors are computed in this process: lm-eval would fork it, with PyTorch's threads.
    """
    import datasets
    from tqdm import tqdm

    drawn = tqdm.__init__

    def undrawn(bar: Any, *arguments: Any, **options: Any) -> None:
        drawn(bar, *arguments, **{**options, "disable": True})

    bars = datasets.are_progress_bars_disabled()
    levels = {name: logging.getLogger(name).level for name in _VERBOSE}
    datasets.disable_progress_bars()
    for name in levels:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        with (
            redirect_stdout(io.StringIO()),
            patch.object(tqdm, "__init__", undrawn),
            patch.dict(os.environ, {"DISABLE_MULTIPROC": "1"}),
        ):
            yield
    finally:
        if not bars:
            datasets.enable_progress_bars()
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
