"""Batches that `data.plain_loader` does not give: random training crops, and whole pictures."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler
from torchvision.transforms import v2

from data.crop import crop_resize
from data.images import UnreadableImage, decode, key_path
from data.keys import Keys


def train_crop(size: int) -> v2.Transform:
    """RandomResizedCrop(.08, 1) and flip, as linear probes are trained: (3, size, size) uint8."""
    return v2.Compose(
        [v2.RandomResizedCrop(size, scale=(0.08, 1.0), antialias=True), v2.RandomHorizontalFlip()]
    )


class TrainingImages(Dataset):
    """Randomly transformed images: `dataset[epoch, number]` is (number, uint8 (S, S, 3)).

    The transform draws from (seed, epoch, number) alone, so that what is drawn depends neither on
    the number of workers nor on where a run was resumed. An unreadable image is (number, reason).
    """

    def __init__(self, root: Path, keys: Keys, transform: v2.Transform, seed: int):
        self.root, self.keys, self.transform, self.seed = root, keys, transform, seed

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, place: tuple[int, int]) -> tuple[int, Tensor | str]:
        epoch, number = place
        try:
            pixels = decode(key_path(self.root, self.keys[number])).image
        except UnreadableImage as reason:
            return number, str(reason)
        with torch.random.fork_rng(devices=[]):
            state = np.random.SeedSequence((self.seed, epoch, number)).generate_state(1)
            torch.manual_seed(int(state[0]))
            return number, self.transform(torch.from_numpy(pixels).permute(2, 0, 1)).permute(
                1, 2, 0
            )


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
    """(numbers (B,), images uint8 (B, S, S, 3), {number: reason} of those that cannot be read)."""
    good = [(number, image) for number, image in samples if not isinstance(image, str)]
    bad = {number: reason for number, reason in samples if isinstance(reason, str)}
    numbers = torch.tensor([number for number, _ in good], dtype=torch.int64)
    images = (
        torch.stack([image for _, image in good]) if good else torch.empty(0, dtype=torch.uint8)
    )
    return numbers, images, bad


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


class WholeImages(Dataset):
    """Batches of whole pictures, resized to S x S where they have another size."""

    def __init__(self, root: Path, keys: Keys, size: int):
        self.root, self.keys, self.size = root, keys, size

    def __getitem__(self, numbers: list[int]) -> dict:
        shown, images, unreadable = [], [], []
        for number in numbers:
            key = self.keys[number]
            try:
                image = decode(key_path(self.root, key)).image
            except UnreadableImage as reason:
                unreadable.append(f"{key}: {reason}")
                continue
            images.append(crop_resize(image, (0, 0, *image.shape[:2]), self.size))
            shown.append(number)
        pixels = np.stack(images) if images else np.empty((0, self.size, self.size, 3), np.uint8)
        index = torch.tensor(shown, dtype=torch.int64)
        return {"index": index, "image": torch.from_numpy(pixels), "unreadable": unreadable}


def whole_loader(root: Path, keys: Keys, size: int, batch_size: int, workers: int) -> DataLoader:
    """Batches like those of `data.plain_loader`, of pictures that are not cropped."""
    numbers = list(range(len(keys)))
    runs = [numbers[start : start + batch_size] for start in range(0, len(keys), batch_size)]
    return DataLoader(WholeImages(root, keys, size), None, sampler=runs, num_workers=workers)
