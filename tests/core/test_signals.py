"""Signals: SIGTERM and SIGHUP become an exception, and interruptions wait for the work."""

from __future__ import annotations

import os
import pty
import signal
import sys
import threading

import pytest

from ftreg.core.signals import Interruption, Terminated, raising_when_terminated

pytestmark = pytest.mark.usefixtures("handlers")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_terminated_process_cleans_up_as_after_ctrl_c(number, code):
    """SIGTERM and SIGHUP raise what handlers of KeyboardInterrupt see too, and afterwards act as before."""
    with pytest.raises(KeyboardInterrupt) as caught, raising_when_terminated():
        signal.raise_signal(number)
    assert caught.type is Terminated
    assert caught.value.exit_code == code
    assert signal.getsignal(number) is signal.SIG_DFL


def test_the_second_sighup_of_a_closed_terminal_does_not_hasten():
    """SIGHUP, which comes from the shell and from the kernel, neither ends postponed work nor a clean-up."""
    interruption = Interruption()
    with interruption.postponed():
        signal.raise_signal(signal.SIGHUP)
        signal.raise_signal(signal.SIGHUP)
    with pytest.raises(Terminated) as caught:
        interruption.act()
    assert caught.value.exit_code == 129
    interruption = Interruption()
    with interruption.postponed():
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGHUP)
    with pytest.raises(KeyboardInterrupt) as caught:
        interruption.act()
    assert caught.type is KeyboardInterrupt
    cleaned = []
    with raising_when_terminated():
        try:
            with pytest.raises(Terminated):
                signal.raise_signal(signal.SIGHUP)
        finally:
            signal.raise_signal(signal.SIGHUP)
            cleaned.append(True)
    assert cleaned


WORK = """
import sys
from pathlib import Path
from ftreg.core.signals import Interruption, Terminated
interruption = Interruption()
with interruption.postponed():
    print("ready", flush=True)
    while not interruption.requested:
        pass
    print("on the way out", flush=True)
    print("on the way out", file=sys.stderr, flush=True)
    Path(sys.argv[1]).write_text("saved")
try:
    interruption.act()
except Terminated as error:
    sys.exit(error.exit_code)
"""


def test_a_message_to_a_closed_terminal_does_not_stop_the_clean_up(tmp_path):
    """When its terminal is closed, a process saves its work and exits with 129, although it can write no message."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.execv(sys.executable, [sys.executable, "-c", WORK, str(tmp_path / "work")])
    seen = b""
    while b"ready" not in seen:
        seen += os.read(terminal, 1000)
    os.close(terminal)
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 129
    assert (tmp_path / "work").read_text() == "saved"


@pytest.mark.parametrize(("number", "error"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, Terminated)])
def test_an_interruption_waits_once(number, error):
    """The first signal is noted until the work acts on it; a second one acts at once."""
    interruption = Interruption()
    interruption.act()
    with interruption.postponed():
        signal.raise_signal(number)
        assert interruption.requested
        with pytest.raises(error) as caught:
            signal.raise_signal(number)
        assert caught.type is error
    with pytest.raises(error):
        interruption.act()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_ignored_signals_stay_ignored(number):
    """A job that its shell told to ignore Ctrl-C does, and so does one that ``nohup`` told to ignore SIGHUP."""
    signal.signal(number, signal.SIG_IGN)
    interruption = Interruption()
    with raising_when_terminated(), interruption.postponed():
        signal.raise_signal(number)
        assert not interruption.requested


def test_other_threads_change_no_handler():
    """In a thread, where Python allows no handlers, work runs as without."""
    seen = []

    def work():
        with Interruption().postponed(), raising_when_terminated():
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [signal.SIG_DFL]
