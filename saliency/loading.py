"""Worker processes that decode and prepare images for a device."""

import signal

import cv2
from torch.utils.data import DataLoader, Dataset


def worker_loader(dataset: Dataset, workers: int, **options) -> DataLoader:
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
    if workers:
        cv2.setNumThreads(1)
    return DataLoader(dataset, num_workers=workers, worker_init_fn=_leave_signals, **options)


def _leave_signals(number: int) -> None:
    """A terminal's Ctrl-C and a scheduler's SIGTERM go to all processes; the parent decides."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
