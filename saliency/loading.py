"""Worker processes that decode and prepare images for a device."""

import signal
from collections.abc import Iterator

import cv2
from torch.utils.data import DataLoader, Dataset

from saliency.workers import signals_held_from_children


class WorkerLoader(DataLoader):
    """A DataLoader whose workers use one core each and leave signals to the parent.

    Parameters
    ----------
    dataset : Dataset
    workers : int
        Processes; 0 loads in this process.
    **options
        Of `torch.utils.data.DataLoader`.

    Notes
    -----
    OpenCV is set to one thread in this process too: its threads do not survive a fork, and a worker
    that inherits them waits for them for ever.
    """

    def __init__(self, dataset: Dataset, workers: int, **options) -> None:
        super().__init__(dataset, num_workers=workers, worker_init_fn=_leave_signals, **options)

    def __iter__(self) -> Iterator:
        if not self.num_workers:
            return super().__iter__()
        cv2.setNumThreads(1)
        with signals_held_from_children():  # until `_leave_signals` has run in them
            return super().__iter__()


def _leave_signals(number: int) -> None:
    """A terminal's Ctrl-C and a scheduler's SIGTERM go to all processes; the parent decides."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
