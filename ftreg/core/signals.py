"""Signals: SIGTERM and SIGHUP end ftreg as Ctrl-C does, with clean-up, and work that can be saved is saved first."""

from __future__ import annotations

import os
import select
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import NoReturn


class Terminated(KeyboardInterrupt):
    """SIGTERM or SIGHUP asked this process to end; what cleans up after ``KeyboardInterrupt`` cleans up after it too.

    Args:
        number: The signal. SIGHUP means that the terminal was closed.
    """

    def __init__(self, number: int) -> None:
        super().__init__()
        self.exit_code = 128 + number


@contextmanager
def raising_when_terminated() -> Iterator[None]:
    """While this lasts, SIGTERM and SIGHUP raise ``Terminated`` instead of ending the process without clean-up."""
    with _handling(_raise, signal.SIGTERM, signal.SIGHUP):
        yield


class Interruption:
    """A Ctrl-C (SIGINT), SIGTERM or SIGHUP that waits until the work has reached a point at which it can stop."""

    def __init__(self) -> None:
        self._number: int | None = None

    @property
    def requested(self) -> bool:
        """Whether a signal has arrived."""
        return self._number is not None

    @contextmanager
    def postponed(self) -> Iterator[None]:
        """While this lasts, the first signal is only noted; a second Ctrl-C or SIGTERM raises at once what it means."""

        def note(number: int, frame: FrameType | None) -> None:
            if self.requested and number != signal.SIGHUP:
                _raise(number, frame)
            self._number = self._number or number

        with _handling(note, signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            yield

    def act(self) -> None:
        """Raise what the signal means, ``KeyboardInterrupt`` or ``Terminated``, if one has arrived."""
        if self._number is not None:
            _raise(self._number, None)


def _raise(number: int, _frame: FrameType | None) -> NoReturn:
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    raise Terminated(number)


@contextmanager
def _handling(handler: Callable[[int, FrameType | None], None], *numbers: signal.Signals) -> Iterator[None]:
    """While this lasts, ``handler`` receives the signals ``numbers``; afterwards, their previous handlers do again.

    A signal that is ignored stays ignored, as shells ask of jobs in the background and ``nohup`` of all. Python lets
    only the main thread set handlers; in other threads nothing changes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    hung_up = False

    def receive(number: int, frame: FrameType | None) -> None:
        nonlocal hung_up
        if number == signal.SIGHUP:
            if hung_up:  # when a terminal is closed, both the shell and the kernel send it
                return
            hung_up = True
            _leave_terminal()
        handler(number, frame)

    previous = {number: signal.getsignal(number) for number in numbers}
    taken = {number: found for number, found in previous.items() if found not in (signal.SIG_IGN, None)}
    for number in taken:
        signal.signal(number, receive)
    try:
        yield
    finally:
        for number, found in taken.items():
            signal.signal(number, found)


def _leave_terminal() -> None:
    """Send standard output and error nowhere if their terminal is gone, lest the next message end the clean-up."""
    with Path(os.devnull).open("wb") as nowhere:
        for file in (1, 2):
            poll = select.poll()
            poll.register(file, 0)  # errors and hang-ups are always reported, and nothing else is asked for
            if poll.poll(0):
                os.dup2(nowhere.fileno(), file)
