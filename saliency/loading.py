"""Worker processes that decode and prepare images for a device."""

from collections.abc import Iterator

import cv2
from torch.utils.data import DataLoader, Dataset

from data.loading_workers import LoadingWorkers, user_errors_of_workers
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
        super().__init__(dataset, num_workers=workers, worker_init_fn=LoadingWorkers(), **options)

    def __iter__(self) -> Iterator:
        """Yield batches.

        Raises
        ------
        UserError
            As the dataset raised it, without the worker's traceback that PyTorch puts around it.
        """
        yield from user_errors_of_workers(self._batches())

    def _batches(self) -> Iterator:
        if not self.num_workers:
            return super().__iter__()
        cv2.setNumThreads(1)
        with signals_held_from_children():  # until `LoadingWorkers` has run in them
            return super().__iter__()
