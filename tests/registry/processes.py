"""Starts the workers of ``tests.registry.worker`` as processes of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def start(home: Path, work: str, *arguments: str, failpoint: str = "") -> subprocess.Popen[str]:
    """Start one worker."""
    return subprocess.Popen(
        [sys.executable, "-m", "tests.registry.worker", str(home), work, *arguments],
        cwd=ROOT,
        env={**os.environ, "FTREG_FAILPOINT": failpoint},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(home: Path, work: str, *arguments: str, failpoint: str = "") -> int:
    """Run one worker to its end; return its exit status."""
    process = start(home, work, *arguments, failpoint=failpoint)
    process.communicate()
    return process.returncode


def run_together(home: Path, works: list[tuple[str, ...]]) -> None:
    """Run workers that all begin once the last of them is ready, and check that none failed."""
    processes = [start(home, *work) for work in works]
    for process in processes:
        assert process.stdout is not None
        process.stdout.readline()
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in processes:
        _, errors = process.communicate()
        assert process.returncode == 0, errors
