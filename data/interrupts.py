"""Hold back Ctrl-C and SIGTERM where an exception would come at the wrong moment."""

import contextlib
import signal
import threading
from collections.abc import Iterator


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Let SIGINT and SIGTERM take effect only after the block; also a decorator.

    Python runs a signal's handler between any two of its instructions, so also inside a file object
    that HDF5 writes through. An exception from there leaves HDF5 with half of a write done, and the
    next call into it crashes the process. So the calls into HDF5 stand in such blocks.

    Outside the main thread, where no handler ever runs, this does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    caught: list[int] = []
    before = {}
    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            handler = signal.getsignal(number)
            if callable(handler):  # not one that is ignored, or that ends the process at once
                before[number] = handler
                signal.signal(number, lambda number, frame: caught.append(number))
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for number in dict.fromkeys(caught):
            signal.raise_signal(number)
