"""How many processes there may be, and how they are started without hearing signals."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator


def usable_cores() -> int:
    """Return the cores that a batch system's affinity or a container's quota grants, at least 1."""
    from joblib import cpu_count

    return cpu_count()


@contextlib.contextmanager
def signals_held_from_children() -> Iterator[None]:
    """Start processes to which a terminal's Ctrl-C, or a batch system's SIGTERM, does nothing.

    Both reach the workers too, and these would print tracebacks or die before the parent has said
    what happens. The parent ends them. A process inherits the mask of blocked signals; this one's
    are only delayed.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
