"""Running a library's program in a process of its own: it prints, writes files, or changes the process it runs in."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def run_module(module: str, *arguments: str, folder: Path | None = None, **environment: str) -> str | None:
    """Run a Python module as a program, offline, and discard what it prints.

    Args:
        module: Its name.
        *arguments: Its arguments.
        folder: The current folder that it runs in; by default this process's.
        **environment: Environment variables that it needs.

    Returns:
        None if it succeeds; otherwise the last line that it wrote to standard error.
    """
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        capture_output=True,
        text=True,
        cwd=folder,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", **environment},
        check=False,
    )
    if done.returncode == 0:
        return None
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    return lines[-1] if lines else f"it ended with exit status {done.returncode} and without a message"
