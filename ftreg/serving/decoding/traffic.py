"""Live traffic: lets the shadows of a deployment run only while no client is waiting."""

from __future__ import annotations

from collections.abc import Callable

from ftreg.serving.decoding.scheduler import Scheduler


class LiveTraffic:
    """Knows whether any client of a deployment is waiting, over all of its batchers."""

    def __init__(self) -> None:
        self._schedulers: list[Scheduler] = []
        self._listeners: list[Callable[[], None]] = []

    @property
    def idle(self) -> bool:
        """Whether no client is waiting for a completion."""
        return not any(scheduler.has_work for scheduler in self._schedulers)

    def register(self, scheduler: Scheduler, on_idle: Callable[[], None]) -> None:
        """Watch a scheduler of clients' completions; call ``on_idle`` when any watched scheduler runs out of work."""
        self._schedulers.append(scheduler)
        self._listeners.append(on_idle)

    def notify_idle(self) -> None:
        """Tell all listeners that a scheduler has run out of work."""
        for listener in self._listeners:
            listener()
