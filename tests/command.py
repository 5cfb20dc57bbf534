"""Runs the real command line in a subprocess."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path


def ftreg(
    *arguments: str | Path,
    home: Path | None = None,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    code: int | None = 0,
    python: str | Path = sys.executable,
) -> subprocess.CompletedProcess[str]:
    """Run ``ftreg`` with ``arguments``, and fail the test if it exits with another code than ``code`` (None: any)."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("FTREG_")}
    environment |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "COLUMNS": "120"}
    if home is not None:
        environment["FTREG_HOME"] = str(home)
    done = subprocess.run(
        [str(python), "-m", "ftreg", *map(str, arguments)],
        cwd=cwd,
        env={**environment, **(env or {})},
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
    )
    if code is not None:
        assert done.returncode == code, f"exit {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done
