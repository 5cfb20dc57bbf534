"""Fixtures of the tests of training."""

from __future__ import annotations

import signal

import pytest


@pytest.fixture
def handlers():
    """Python's own handlers of Ctrl-C and SIGTERM: a shell that runs the tests in the background has Ctrl-C ignored."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)
