"""Stopping by Ctrl-C or SIGTERM: an exception out of the signal's handler, which must not be lost.

Python runs the handler between any two instructions of the main thread, so also in a destructor,
whose exceptions are printed and forgotten. So the handler remembers that it was called.
"""

import signal
import sys

from saliency.cut_off import expect_cut_off

_stopped_by: int | None = None


def stop_by_signals() -> None:
    """From now on raise KeyboardInterrupt(number) for SIGINT and SIGTERM, unless ignored so far.

    nohup ignores them, and so does & in a script.
    """
    global _stopped_by
    _stopped_by = None
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _stop)


def raise_if_stopped() -> None:
    """Raise a KeyboardInterrupt that was lost; to be called now and then."""
    if _stopped_by is not None:
        raise KeyboardInterrupt(_stopped_by)


def _stop(number: int, frame: object) -> None:
    """Raise an exception, once: a second Ctrl-C must not disturb the cleaning up."""
    global _stopped_by
    _stopped_by = number
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    expect_cut_off()
    _expect_loss()
    raise KeyboardInterrupt(number)


def _expect_loss() -> None:
    """Say nothing of a KeyboardInterrupt that gets lost."""
    usual = sys.unraisablehook

    def hook(failure: "sys.UnraisableHookArgs") -> None:
        if not isinstance(failure.exc_value, KeyboardInterrupt):
            usual(failure)

    sys.unraisablehook = hook
