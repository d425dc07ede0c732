"""Random crops to train a linear probe on, and which images can be read at all."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch.utils.data import Sampler
from torchvision.transforms import RandomResizedCrop

from data.images.crop import crop_resize, reduction_for, snap_box
from data.images.decode import decode_reduced
from data.loading import (
    Batch,
    PlainDataset,
    PlainLoader,
    build_plain_loader,
    unreadable_of,
)
from data.loading_workers import LoadingWorkers
from evaluate.labelled import Labelled
from evaluate.results import image_bar, none_readable

SCALE, RATIO = (0.08, 1.0), (3 / 4, 4 / 3)  # of a crop: share of the image's area, width / height


def random_crop(path: str, size: int) -> np.ndarray:
    """RandomResizedCrop(.08, 1) and flip of an image file, as linear probes are trained.

    The draws are torchvision's, from torch's generator, and so are the pixels: uint8 (size, size,
    3). Only a JPEG much larger than its crop is reduced while it is decoded, which moves the crop's
    borders by less than a pixel of it. Raises `UnreadableImage`.
    """
    box = (0, 0, 0, 0)

    def reduction(image_size: tuple[int, int]) -> int:
        nonlocal box
        of_this_size = torch.empty((3, *image_size), device="meta")
        box = RandomResizedCrop.get_params(of_this_size, list(SCALE), list(RATIO))
        return reduction_for([box], size)

    decoded = decode_reduced(path, reduction)
    if decoded.reduction > 1:
        snapped = snap_box(box, decoded.reduction, decoded.image_size)
        box = tuple(side // decoded.reduction for side in snapped)
    crop = crop_resize(decoded.image, box, size)
    return crop[:, ::-1] if torch.rand(1).item() < 0.5 else crop


class TrainingImages(PlainDataset):
    """Random crops; `dataset[[(epoch, number), ...]]` is a batch of one epoch (see `PlainLoader`).

    A crop is drawn from (seed, epoch, number) alone, so that it depends neither on the number of
    workers nor on where a run was resumed.
    """

    def __init__(self, images: Labelled, size: int, seed: int):
        super().__init__(images.root, images.keys, size, images.labels)
        self.seed = seed

    def __getitem__(self, places: list[tuple[int, int]]) -> Batch:
        """Return the batch of these images in this epoch."""
        epoch = places[0][0]

        def read(number: int, path: str) -> np.ndarray:
            state = np.random.SeedSequence((self.seed, epoch, number)).generate_state(1)
            torch.manual_seed(int(state[0]))
            return random_crop(path, self.image_size)

        with torch.random.fork_rng(devices=[]):
            return self.load(np.array([number for _, number in places]), read)


class EpochBatches(Sampler):
    """One epoch's batches of (epoch, number) for one of several processes.

    The order is a permutation by (seed, epoch). Each step's `batch_size` images are dealt to the
    processes in turn; where the last ones do not go round, the permutation's first fill up, so
    that every process takes part in every step. `batch_size` is a multiple of `size`.
    """

    def __init__(self, count: int, batch_size: int, seed: int, rank: int = 0, size: int = 1):
        self.count, self.batch_size, self.seed = count, batch_size, seed
        self.rank, self.size, self.epoch = rank, size, 0

    def __len__(self) -> int:
        return -(-self.count // self.batch_size)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        order = np.random.default_rng((self.seed, self.epoch)).permutation(self.count)
        order = np.resize(order, -(-self.count // self.size) * self.size)
        for start in range(0, len(order), self.batch_size):
            mine = order[start : start + self.batch_size][self.rank :: self.size]
            yield [(self.epoch, int(number)) for number in mine]


def train_loader(
    images: TrainingImages, batches: EpochBatches, workers: int, pin_memory: bool
) -> PlainLoader:
    """Batches of an epoch; set `batches.epoch` before each. Workers stay alive between epochs."""
    options = {
        "num_workers": workers,
        "pin_memory": pin_memory,
        "persistent_workers": workers > 0,
        "worker_init_fn": LoadingWorkers(),
    }
    return PlainLoader(images, batches, options)


def readable(images: Labelled, workers: int) -> tuple[Labelled, dict[str, str]]:
    """The images that can be decoded, and why the others cannot: key -> reason."""
    loader = build_plain_loader(
        images.root, keys=images.keys, image_size=1, batch_size=64, workers=workers
    )
    rows, unreadable = [], {}
    with image_bar(len(images), "reading") as bar:
        for batch in loader:
            rows.append(batch["index"].numpy())
            unreadable |= unreadable_of(batch)
            bar.update(len(batch["index"]) + len(batch["unreadable"]))
    if len(unreadable) == len(images):
        raise none_readable(unreadable)
    return images.take(np.concatenate(rows)), unreadable
