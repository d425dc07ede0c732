"""Loading processes that the main process alone ends."""

from __future__ import annotations

import atexit
import multiprocessing
import multiprocessing.util  # registers its clean-up at exit, which is to run after the one below
import os
import signal
import weakref
from collections.abc import Iterable, Iterator
from typing import Any

import cv2

from data.errors import UserError

_open: weakref.WeakSet[LoadingWorkers] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    """Before multiprocessing's clean-up, which ends workers by the very signal they ignore."""
    for workers in list(_open):
        workers.close()


def usable_cores() -> int:
    """Return the cores that a batch system's affinity or a container's quota grants, at least 1."""
    from joblib import cpu_count

    return cpu_count()


class LoadingWorkers:
    """A `worker_init_fn` for DataLoader: one thread each, interruptions left to the main process.

    A terminal's Ctrl-C and a cluster's SIGTERM go to every process of a job. The main process still
    needs its workers then, to end what it is at and save. It ends them itself; and should it be
    killed, they notice and end too (DataLoader's workers watch their parent).
    """

    def __init__(self) -> None:
        self._closing = multiprocessing.RawValue("b", 0)  # seen by the workers
        _open.add(self)
        # Dropped unclosed, with its loader: where the interpreter is about to exit, PyTorch then
        # leaves the workers to multiprocessing's clean-up, which would wait for them for ever.
        weakref.finalize(self, setattr, self._closing, "value", 1).atexit = False

    def __call__(self, worker: int) -> None:
        """Prepare a worker; runs in it."""
        # 0, not 1, which would wait for the parent's threads, lost in the fork; torch's are one
        cv2.setNumThreads(0)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, self._terminate)
        if hasattr(signal, "pthread_sigmask"):  # the parent may hold them until here
            signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGINT, signal.SIGTERM))

    def close(self) -> None:
        """Let the workers end by SIGTERM from now on."""
        self._closing.value = 1

    def _terminate(self, number: int, frame: object) -> None:
        if self._closing.value:
            os._exit(0)

    def __reduce__(self) -> tuple:
        return _unpickled, (self._closing,)


def _unpickled(closing) -> LoadingWorkers:
    """Make the copy that a spawned worker gets: it shares the value, and registers nothing."""
    workers = LoadingWorkers.__new__(LoadingWorkers)
    workers._closing = closing
    return workers


def user_errors_of_workers(batches: Iterable[Any]) -> Iterator[Any]:
    """Yield a DataLoader's batches; a worker's UserError is raised as the worker raised it.

    PyTorch raises it again with the worker's traceback as its text.
    """
    try:
        yield from batches
    except UserError as error:
        if not error.message.startswith("Caught UserError in "):
            raise
        raise UserError(error.message.rpartition("UserError: ")[2].strip()) from None
