"""Starts the workers."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

from tests.registry.worker import GO

ROOT = Path(__file__).parents[2]


def start(home: Path, work: str, *arguments: str, failpoint: str = "") -> subprocess.Popen[str]:
    """Start one worker."""
    return subprocess.Popen(
        [sys.executable, "-m", "tests.registry.worker", str(home), work, *arguments],
        cwd=ROOT,
        env={**os.environ, "FTREG_FAILPOINT": failpoint},
        stderr=subprocess.PIPE,
        text=True,
    )


def run(home: Path, work: str, *arguments: str, failpoint: str = "") -> int:
    """Run one worker to its end; return its exit status."""
    process = start(home, work, *arguments, failpoint=failpoint)
    process.communicate(timeout=60)
    return process.returncode


def run_together(home: Path, works: list[tuple[str, ...]]) -> None:
    """Run workers that wait for one another, and check that none failed."""
    processes = [start(home, *work) for work in works]
    deadline = time.monotonic() + 60
    while len(list(home.parent.glob("ready-*"))) < len(works) and time.monotonic() < deadline:
        time.sleep(0.01)
    (home.parent / GO).touch()
    for process in processes:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
