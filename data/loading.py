"""Batches of a data set by worker processes: an epoch's order, shared memory, errors, signals.

`Loader` serves training, probes, networks' saliency and BASNet. A data set makes whole batches:
`dataset[request]`. `build_plain_loader` loads images as evaluation sees them.
"""

from __future__ import annotations

import atexit
import multiprocessing
import multiprocessing.util  # registers its clean-up at exit, which is to run after the one below
import os
import signal
import weakref
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler, get_worker_info

from data.device import sent
from data.errors import UserError
from data.images import IMAGENET_MEAN, IMAGENET_STD
from data.images.crop import centre_crop
from data.images.decode import UnreadableImage, decode
from data.images.listing import key_path, list_images
from data.keys import Keys
from data.processes import signals_held_from_children

Batch = dict[str, torch.Tensor | list[tuple[str, str]]]
Crop = Callable[[np.ndarray, int], np.ndarray]  # uint8 (H, W, 3), S -> uint8 (S, S, 3)


# The order of an epoch --------------------------------------------------------------------------


class Request(NamedTuple):
    """A batch to load: which images, int64 (B,), in which epoch."""

    epoch: int
    indices: np.ndarray


class EpochBatches(Sampler[Request]):
    """The batches of `epoch` for one of several processes, from the step `start` on.

    Of each step's batch_size * world_size images, in the epoch's order, rank r gets the r-th run;
    so several processes together see what one sees at the same global batch.

    order : of an epoch, a permutation int64 (N,), from its number alone.
    batch_size : images a step in this process.
    whole : drop a last step that is not whole. Otherwise it is kept, and the order's first images
        fill it up until every process has as many.
    """

    def __init__(
        self,
        order: Callable[[int], np.ndarray],
        count: int,
        batch_size: int,
        *,
        rank: int = 0,
        world_size: int = 1,
        whole: bool = True,
    ) -> None:
        self.order, self.rank, self.world_size, self.whole = order, rank, world_size, whole
        self.epoch, self.start = 0, 0
        self._step = batch_size * world_size  # images
        self._count = count if whole else -(-count // world_size) * world_size

    @property
    def steps(self) -> int:
        """The steps of a whole epoch."""
        return self._count // self._step if self.whole else -(-self._count // self._step)

    def __len__(self) -> int:
        return self.steps - self.start

    def __iter__(self) -> Iterator[Request]:
        epoch, first = self.epoch, self.start  # of now, whatever is set while this continues
        order = np.resize(self.order(epoch), self._count)
        for step in range(first, self.steps):
            images = order[step * self._step : (step + 1) * self._step]
            yield Request(epoch, np.split(images, self.world_size)[self.rank])


def seeded_order(seed: int, count: int) -> Callable[[int], np.ndarray]:
    """Return the order by (seed, epoch) of the probes and of BASNet's training."""
    return lambda epoch: np.random.default_rng((seed, epoch)).permutation(count)


# Shared memory ----------------------------------------------------------------------------------


def new_tensor(shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
    """Return an uninitialised tensor; in a worker it lies in shared memory.

    A worker's tensor that does not is copied there when it is sent, by a thread whose failure
    nobody hears of: where that memory is full (a container has 64 MB of it, by default), the
    trainer would wait indefinitely. Here it is a RuntimeError, which `errors_told` tells.
    """
    if get_worker_info() is None:
        return torch.empty(tuple(shape), dtype=dtype)
    storage = torch.UntypedStorage._new_shared(int(np.prod(shape)) * dtype.itemsize)
    return torch.empty(0, dtype=dtype).set_(storage, 0, tuple(shape))


def as_tensor(array: np.ndarray) -> torch.Tensor:
    """Return an array as a tensor, in a worker as a copy in shared memory; see `new_tensor`."""
    tensor = torch.from_numpy(array)
    return (
        tensor if get_worker_info() is None else new_tensor(array.shape, tensor.dtype).copy_(tensor)
    )


# Workers ----------------------------------------------------------------------------------------


class Loader:
    """Loads `dataset[request]` for each of `requests`, in their order.

    dataset : anything with `__getitem__` that can be pickled; its batches arrive as they are.
    requests : what to load, anew for each `iter`; it has a length.
    workers : processes, each of which loads one batch at a time; 0 loads in this process.
    collate : makes a batch of items, `dataset[i]` for each i of a request; None: the data set
        makes whole batches.
    keep_workers : from one `iter` to the next, until `close`.

    A terminal's Ctrl-C and a cluster's SIGTERM go to every process of a job; the workers leave them
    to this one, which may still need batches, to end what it is at and save. It ends them itself;
    and should it be killed, they notice and end too (DataLoader's workers watch their parent).

    While iterating: UserError as the data set raised it, after which the loader is closed.
    """

    def __init__(
        self,
        dataset: Any,
        requests: Sampler | Sequence,
        workers: int = 0,
        *,
        collate: Callable[[list], Any] | None = None,
        pin_memory: bool = False,
        keep_workers: bool = False,
    ) -> None:
        self.dataset = dataset
        self._signals = _WorkersSignals()
        self._loader: DataLoader | None = DataLoader(
            _Guarded(dataset, collate),
            batch_size=None,
            sampler=requests,
            num_workers=workers,
            persistent_workers=keep_workers and workers > 0,
            pin_memory=pin_memory,
            collate_fn=_as_it_is,
            worker_init_fn=self._signals,
        )

    def __len__(self) -> int:
        return len(self._loader)

    def __iter__(self) -> Iterator[Any]:
        if self._loader is None:
            raise RuntimeError("the loader is closed")
        if self._loader.num_workers:
            cv2.setNumThreads(1)  # a worker would wait for other threads, which a fork loses
        with signals_held_from_children():  # until `_WorkersSignals` has run in them
            batches = iter(self._loader)
        for batch in _received(batches) if self._loader.num_workers else batches:
            if isinstance(batch, _Refusal):
                self.close()
                error = UserError(batch.sentence)
                error.of_one_process = True
                raise error
            yield batch

    def close(self) -> None:
        """End the workers."""
        self._signals.end()
        self._loader = None  # its iterator ends them when it is dropped


def _received(batches: Iterator[Any]) -> Iterator[Any]:
    """Yield batches; of a worker that ends while it hands one over, say so as PyTorch does."""
    try:
        yield from batches
    except (ConnectionError, EOFError) as error:
        if str(error).startswith("Caught "):  # by a worker, from its data set
            raise
        raise RuntimeError(f"DataLoader worker (pid unknown) has gone: {error}") from error


class _Refusal(NamedTuple):
    """A UserError's sentence; an exception from a worker would have a traceback as its text."""

    sentence: str


class _Guarded(Dataset):
    """A data set that returns its UserErrors."""

    def __init__(self, dataset: Any, collate: Callable[[list], Any] | None) -> None:
        self.dataset, self.collate = dataset, collate

    def __getitem__(self, request: Any) -> Any:
        try:
            if self.collate is None:
                return self.dataset[request]
            return self.collate([self.dataset[item] for item in request])
        except UserError as error:
            return _Refusal(error.message)


def _as_it_is(batch: Any) -> Any:
    return batch


_open: weakref.WeakSet[_WorkersSignals] = weakref.WeakSet()


@atexit.register
def _end_all() -> None:
    """Before multiprocessing's clean-up, which ends workers by the very signal they ignore."""
    for workers in list(_open):
        workers.end()


class _WorkersSignals:
    """Runs first in each worker: one thread, and signals are left to the main process."""

    def __init__(self) -> None:
        self._ending = multiprocessing.RawValue("b", 0)  # seen by the workers
        _open.add(self)
        # Dropped unclosed, with its loader: where the interpreter is about to exit, PyTorch then
        # leaves the workers to multiprocessing's clean-up, which would wait for them indefinitely.
        weakref.finalize(self, setattr, self._ending, "value", 1).atexit = False

    def __call__(self, worker: int) -> None:
        # 0, not 1, which would wait for the parent's threads, lost in the fork; torch's are one
        cv2.setNumThreads(0)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, self._terminate)
        if hasattr(signal, "pthread_sigmask"):  # the parent holds them until here
            signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGINT, signal.SIGTERM))

    def end(self) -> None:
        """Let the workers end by SIGTERM from now on."""
        self._ending.value = 1

    def _terminate(self, number: int, frame: object) -> None:
        if self._ending.value:
            os._exit(0)

    def __reduce__(self) -> tuple:
        return _unpickled, (self._ending,)


def _unpickled(ending: Any) -> _WorkersSignals:
    """Make the copy that a spawned worker gets: it shares the value, and registers nothing."""
    signals = _WorkersSignals.__new__(_WorkersSignals)
    signals._ending = ending
    return signals


# Images as evaluation sees them -----------------------------------------------------------------


def normalise(images: torch.Tensor) -> torch.Tensor:
    """Turn uint8 (B, S, S, 3) into a network's input, float32 (B, 3, S, S), channels_last."""
    pixels = images.permute(0, 3, 1, 2) / 255
    return (pixels - of_channels(IMAGENET_MEAN, pixels)) / of_channels(IMAGENET_STD, pixels)


def of_channels(values: Sequence[float], like: torch.Tensor) -> torch.Tensor:
    """Return one value a channel, (3, 1, 1), of the dtype and on the device of `like`.

    It is made once and kept, and not to be written to: each copy from Python's numbers would make
    the host wait for the GPU.
    """
    return _of_channels(tuple(values), like.device, like.dtype)


@lru_cache(maxsize=64)
def _of_channels(
    values: tuple[float, ...], device: torch.device, dtype: torch.dtype
) -> torch.Tensor:
    with torch.inference_mode(False):  # else autograd would refuse what is kept from there
        return sent(torch.tensor(values, dtype=dtype), device)[:, None, None]


def unreadable_of(batch: Batch) -> dict[str, str]:
    """The images that a batch leaves out: key -> reason."""
    return dict(batch["unreadable"])


class PlainDataset(Dataset):
    """Whole batches of crops; `dataset[indices]` is a dict:

    index       int64 (B,)            rows of `keys`; B is smaller by the unreadable images
    label       int64 (B,)            only when labels were given
    image       uint8 (B, S, S, 3)    RGB; `normalise` makes a network's input of it
    unreadable  list of (key, reason) of this batch's images that are left out; `unreadable_of`
    """

    def __init__(
        self,
        root: str | os.PathLike,
        keys: Keys,
        image_size: int,
        labels: np.ndarray | None,
        crop: Crop = centre_crop,
    ) -> None:
        self.root, self.keys, self.labels = Path(root), keys, labels
        self.image_size, self.crop = image_size, crop

    def __getitem__(self, indices: np.ndarray) -> Batch:
        return self.load(indices, lambda _, path: self.crop(decode(path).image, self.image_size))

    def load(self, indices: np.ndarray, read: Callable[[int, str], np.ndarray]) -> Batch:
        """Return the batch of these images, each made by `read(index, path)`."""
        # written where the process that asked for the batch reads it
        shape = (len(indices), self.image_size, self.image_size, 3)
        batch: Batch = {"image": new_tensor(shape, torch.uint8)}
        images = batch["image"].numpy()
        shown: list[int] = []
        unreadable: list[tuple[str, str]] = []
        for index in indices.tolist():
            key = self.keys[index]
            try:
                images[len(shown)] = read(index, key_path(self.root, key))
            except UnreadableImage as error:
                unreadable.append((key, str(error)))
                continue
            shown.append(index)
        rows = np.array(shown, np.int64)
        batch["index"] = as_tensor(rows)
        batch["image"] = batch["image"][: len(shown)]
        batch["unreadable"] = unreadable
        if self.labels is not None:
            batch["label"] = as_tensor(self.labels[rows])
        return batch


def build_plain_loader(
    root: str | os.PathLike,
    *,
    image_size: int = 224,
    batch_size: int = 256,
    workers: int = 0,
    keys: Keys | None = None,
    labels: Sequence[int] | np.ndarray | None = None,
    pin_memory: bool = False,
) -> Loader:
    """Return a loader of images as evaluation sees them; its batches: `PlainDataset`.

    root : the image folder.
    image_size : side of the crops, Resize(image_size * 256 / 224), CenterCrop(image_size).
    keys : the folder's images, when they have been listed already.
    labels : a class number per image, in the order of the keys; see `data.images.labels`.

    UserError: no images there.
    """
    keys = list_images(root) if keys is None else keys
    labels = None if labels is None else np.asarray(labels, np.int64)
    dataset = PlainDataset(root, keys, image_size, labels)
    return Loader(dataset, in_batches(len(keys), batch_size), workers, pin_memory=pin_memory)


def in_batches(count: int, size: int) -> list[np.ndarray]:
    """Return the rows of `count` images, int64, in their order and in batches of `size`."""
    rows = np.arange(count)
    return [rows[start : start + size] for start in range(0, count, size)]
