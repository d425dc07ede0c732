"""Being asked to stop: SIGTERM of a cluster, Ctrl-C of a person."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager


class StopRequest:
    """Whether, and by which signal, this process was asked to stop."""

    number: int | None = None

    @property
    def interrupted(self) -> bool:
        """Whether it was Ctrl-C."""
        return self.number == signal.SIGINT

    def __bool__(self) -> bool:
        return self.number is not None


@contextmanager
def stop_on_signals() -> Iterator[StopRequest]:
    """Turn SIGTERM and the first Ctrl-C into a request; the second Ctrl-C interrupts at once."""
    request = StopRequest()

    def note(number: int, frame: object) -> None:
        if request.interrupted and number == signal.SIGINT:
            raise KeyboardInterrupt
        request.number = number

    before = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
