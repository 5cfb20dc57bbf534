"""The machine: what of it can change the last bits of a result, to explain a replay that differs."""

from __future__ import annotations

import platform
import sys
from pathlib import Path

from ftreg.core.manifest import Json


def describe_machine() -> dict[str, Json]:
    """Return the ``processor`` and the number of ``threads`` that torch uses; None for threads if it is not loaded.

    Matrix products are added up in an order that depends on both.
    """
    torch = sys.modules.get("torch")
    return {"processor": _processor(), "threads": None if torch is None else torch.get_num_threads()}


def _processor() -> str:
    """Return the processor's model; the architecture if the system does not say more."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
