"""What the benchmarks share: contenders in processes of their own, the hardware, and where results are written."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "benchmarks" / "README.md"
RESULTS = ROOT / "benchmarks" / "results"
ENVIRONMENT = {**os.environ, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
_MARK = "RESULT "


def run_contender(name: str, command: Sequence[str | Path]) -> dict[str, Any]:
    """Run a contender's process, which ends with ``finish``, and return its figures; end the benchmark if it fails."""
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True)
    found = [line for line in done.stdout.splitlines() if line.startswith(_MARK)]
    if not found:
        sys.exit(f"{name} failed:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    figures: dict[str, Any] = json.loads(found[0].removeprefix(_MARK))
    return figures


def finish(figures: Mapping[str, Any]) -> None:
    """Print a contender's figures for ``run_contender``."""
    print(_MARK + json.dumps(figures))


def hardware() -> dict[str, Any]:
    """The machine, as results name it."""
    return {"cpu": cpu_name(), "cores": os.cpu_count(), "platform": platform.platform()}


def cpu_name() -> str:
    """The processor's name."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor()


def write_result(file: str, result: Mapping[str, Any], script: str, report: str) -> None:
    """Write the raw result into ``results/``, and the report into the script's section of the README."""
    (RESULTS / file).write_text(json.dumps(result, indent=1) + "\n")
    start, end = f"<!-- {script} writes from here -->", f"<!-- to here: {script} -->"
    text = README.read_text()
    README.write_text(f"{text.split(start)[0]}{start}\n{report}\n{end}{text.split(end)[1]}")
