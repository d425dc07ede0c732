"""How many processes there may be, and how they are started without hearing signals."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

_SHARED = Path("/dev/shm")


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


def sweep_after_death() -> None:
    """Have what this process leaves in shared memory removed even if its whole group is killed.

    Joblib's own cleaner belongs to the group and dies with it; then its semaphores and folders stay
    in /dev/shm for as long as the machine runs. This one is a process in a session of its own. It
    waits for a pipe to be closed, as happens however this process ends.
    """
    if not _SHARED.is_dir():
        return
    end, _ = os.pipe()  # the other end is closed with this process; no program inherits it
    ready, tells = os.pipe()
    pid = os.getpid()
    if os.fork():
        os.close(end)
        os.close(tells)
        os.read(ready, 1)  # until it has left the group
        os.close(ready)
        return
    try:  # nothing here may raise into the program that was forked
        os.setsid()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        os.write(tells, b".")
        os.dup2(end, 0)
        os.closerange(1, os.sysconf("SC_OPEN_MAX"))
        os.read(0, 1)
        for name in (f"sem.loky-{pid}-*", f"joblib_memmapping_folder_{pid}_*"):
            for path in _SHARED.glob(name):
                shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    finally:
        os._exit(0)
