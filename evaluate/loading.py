"""Batches of images for probes: the standard test crop, and the standard training crop."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler
from torchvision.transforms import v2

from data.images import UnreadableImage, decode, key_path

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def centre_crop(size: int) -> v2.Transform:
    """Resize the short side to 256/224 of `size`, then cut the centre: (3, size, size) uint8."""
    return v2.Compose([v2.Resize(round(size * 256 / 224), antialias=True), v2.CenterCrop(size)])


def train_crop(size: int) -> v2.Transform:
    """RandomResizedCrop(.08, 1) and flip, as linear probes are trained: (3, size, size) uint8."""
    return v2.Compose(
        [v2.RandomResizedCrop(size, scale=(0.08, 1.0), antialias=True), v2.RandomHorizontalFlip()]
    )


def normalise(images: Tensor) -> Tensor:
    """uint8 (B, 3, H, W) -> float32, by ImageNet's mean and deviation, on the images' device."""
    mean = torch.tensor(IMAGENET_MEAN, device=images.device)[:, None, None]
    std = torch.tensor(IMAGENET_STD, device=images.device)[:, None, None]
    return (images.float() / 255 - mean) / std


class Images(Dataset):
    """Images by number: (number, uint8 (3, S, S)), or (number, reason) where one cannot be read."""

    def __init__(self, root: Path, keys: Sequence[str], transform: v2.Transform):
        self.root, self.keys, self.transform = root, keys, transform

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, number: int) -> tuple[int, Tensor | str]:
        try:
            pixels = decode(key_path(self.root, self.keys[number])).image
        except UnreadableImage as reason:
            return number, str(reason)
        image = torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))
        return number, self.transform(image)


class TrainingImages(Images):
    """Randomly transformed images by (epoch, number).

    The transform draws from (seed, epoch, number) alone, so that what is drawn depends neither on
    the number of workers nor on where a run was resumed. An unreadable image is the same in every
    epoch, and is given as such.
    """

    def __init__(self, root: Path, keys: Sequence[str], transform: v2.Transform, seed: int):
        super().__init__(root, keys, transform)
        self.seed = seed

    def __getitem__(self, place: tuple[int, int]) -> tuple[int, Tensor | str]:
        epoch, number = place
        with torch.random.fork_rng(devices=[]):
            state = np.random.SeedSequence((self.seed, epoch, number)).generate_state(1)
            torch.manual_seed(int(state[0]))
            return super().__getitem__(number)


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


def collate(samples: list[tuple[int, Tensor | str]]) -> tuple[Tensor, Tensor, dict[int, str]]:
    """(numbers (B,), images uint8 (B, 3, S, S), {number: reason} of those that cannot be read)."""
    good = [(number, image) for number, image in samples if not isinstance(image, str)]
    bad = {number: reason for number, reason in samples if isinstance(reason, str)}
    numbers = torch.tensor([number for number, _ in good], dtype=torch.int64)
    images = (
        torch.stack([image for _, image in good]) if good else torch.empty(0, dtype=torch.uint8)
    )
    return numbers, images, bad


def centre_loader(
    root: Path,
    keys: Sequence[str],
    size: int,
    batch_size: int,
    workers: int,
    transform: v2.Transform | None = None,
) -> DataLoader:
    """Batches in order, once, with the test crop."""
    return DataLoader(
        Images(root, keys, transform or centre_crop(size)),
        batch_size=batch_size,
        num_workers=workers,
        collate_fn=collate,
        pin_memory=torch.cuda.is_available(),
    )


def train_loader(
    images: TrainingImages, batches: EpochBatches, workers: int, pin_memory: bool
) -> DataLoader:
    """Batches of an epoch; set `batches.epoch` before each. Workers stay alive between epochs."""
    return DataLoader(
        images,
        batch_sampler=batches,
        num_workers=workers,
        collate_fn=collate,
        pin_memory=pin_memory,
        persistent_workers=workers > 0,
    )
