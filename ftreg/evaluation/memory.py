"""The peak of this process's resident memory during a piece of work."""

from __future__ import annotations

from pathlib import Path

_SELF = Path("/proc/self")


class PeakMemory:
    """Measures the peak from its creation on, where the system can: on Linux, whose counter can be reset (proc(5))."""

    def __init__(self) -> None:
        try:
            (_SELF / "clear_refs").write_text("5")
            self._counts = True
        except OSError:
            self._counts = False

    def read(self) -> int | None:
        """Return the peak in bytes; None if it cannot be measured here."""
        if not self._counts:
            return None
        lines = (_SELF / "status").read_text().splitlines()
        return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM")), None)
