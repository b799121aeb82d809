"""What a run does about the signals that ask it to stop."""

import signal

import pytest
from accelerate import Accelerator

from training.state import Interruption
from utils import StopSignals


def test_a_signal_that_insists_is_obeyed(monkeypatch, foreground):
    """What comes at once after the first is the same request; a terminal that closes is no request to hurry."""
    for number in (signal.SIGHUP, signal.SIGINT):
        with StopSignals(signal.SIGHUP, signal.SIGINT) as stop:
            signal.raise_signal(number)
            signal.raise_signal(signal.SIGINT)
            assert (stop.noted, stop.insisted) == (number, False)
    assert StopSignals.SAME_REQUEST == 5.0  # as docs/running.md says
    monkeypatch.setattr(StopSignals, "SAME_REQUEST", -1.0)
    with StopSignals(signal.SIGHUP, signal.SIGINT) as stop:
        for number, insisted in ((signal.SIGINT, False), (signal.SIGHUP, False), (signal.SIGINT, True)):
            signal.raise_signal(number)
            assert (stop.noted, stop.insisted) == (signal.SIGINT, insisted)
    with Interruption(Accelerator(cpu=True)) as interruption:
        signal.raise_signal(signal.SIGINT)
        assert interruption.agreed() == signal.SIGINT
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    with StopSignals(signal.SIGINT):
        signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_an_ignored_signal_stays_so(foreground):
    """As a run in the background of a script has it, or under nohup."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with StopSignals(signal.SIGHUP) as stop:
        signal.raise_signal(signal.SIGHUP)
    assert (stop.noted, signal.getsignal(signal.SIGHUP)) == (0, signal.SIG_IGN)
