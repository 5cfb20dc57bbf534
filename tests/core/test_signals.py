"""Signals: SIGTERM becomes an exception, and interruptions wait for the work."""

from __future__ import annotations

import signal
import threading

import pytest

from ftreg.core.signals import Interruption, Terminated, raising_on_sigterm

pytestmark = pytest.mark.usefixtures("handlers")


def test_sigterm_cleans_up_as_ctrl_c_does():
    """SIGTERM raises what handlers of KeyboardInterrupt see too, and afterwards acts as before."""
    with pytest.raises(KeyboardInterrupt) as caught, raising_on_sigterm():
        signal.raise_signal(signal.SIGTERM)
    assert caught.type is Terminated
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


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


def test_ignored_signals_stay_ignored():
    """A job that its shell told to ignore Ctrl-C does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    interruption = Interruption()
    with interruption.postponed():
        signal.raise_signal(signal.SIGINT)
        assert not interruption.requested


def test_other_threads_change_no_handler():
    """In a thread, where Python allows no handlers, work runs as without."""
    seen = []

    def work():
        with Interruption().postponed(), raising_on_sigterm():
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [signal.SIG_DFL]
