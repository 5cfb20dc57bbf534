"""Signals: SIGTERM ends ftreg the way Ctrl-C does, with clean-up, and work that can be saved is saved first."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn


class Terminated(KeyboardInterrupt):
    """SIGTERM asked this process to end; what cleans up after Ctrl-C (``KeyboardInterrupt``) cleans up after it too."""


@contextmanager
def raising_on_sigterm() -> Iterator[None]:
    """While this lasts, SIGTERM raises ``Terminated`` instead of ending the process without clean-up."""
    with _handling(_raise, signal.SIGTERM):
        yield


class Interruption:
    """A Ctrl-C (SIGINT) or SIGTERM that waits until the work has reached a point at which it can stop."""

    def __init__(self) -> None:
        self._number: int | None = None

    @property
    def requested(self) -> bool:
        """Whether a signal has arrived."""
        return self._number is not None

    @contextmanager
    def postponed(self) -> Iterator[None]:
        """While this lasts, the first signal is only noted; a second one raises at once what it means."""

        def note(number: int, frame: FrameType | None) -> None:
            if self.requested:
                _raise(number, frame)
            self._number = number

        with _handling(note, signal.SIGINT, signal.SIGTERM):
            yield

    def act(self) -> None:
        """Raise what the signal means, ``KeyboardInterrupt`` or ``Terminated``, if one has arrived."""
        if self._number is not None:
            _raise(self._number, None)


def _raise(number: int, _frame: FrameType | None) -> NoReturn:
    if number == signal.SIGTERM:
        raise Terminated
    raise KeyboardInterrupt


@contextmanager
def _handling(handler: Callable[[int, FrameType | None], None], *numbers: signal.Signals) -> Iterator[None]:
    """While this lasts, ``handler`` receives the signals ``numbers``; afterwards, their previous handlers do again.

    A signal that is ignored stays ignored, as shells ask of jobs in the background. Python lets only the main thread
    set handlers; in other threads nothing changes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = {number: signal.getsignal(number) for number in numbers}
    taken = {number: found for number, found in previous.items() if found not in (signal.SIG_IGN, None)}
    for number in taken:
        signal.signal(number, handler)
    try:
        yield
    finally:
        for number, found in taken.items():
            signal.signal(number, found)
