"""Images as evaluation sees them: resized, centre crop, no augmentation."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from data.device import sent
from data.errors import UserError
from data.images.channel_statistics import IMAGENET_MEAN, IMAGENET_STD
from data.images.crop import centre_crop
from data.images.decode import UnreadableImage, decode, key_path, list_images
from data.keys import Keys
from data.loading_workers import LoadingWorkers, user_errors_of_workers
from data.shared_memory import as_tensor, new_tensor

Batch = dict[str, torch.Tensor | list[tuple[str, str]]]
Crop = Callable[[np.ndarray, int], np.ndarray]  # uint8 (H, W, 3), S -> uint8 (S, S, 3)


def normalise(
    images: torch.Tensor,
    mean: Sequence[float] = IMAGENET_MEAN,
    std: Sequence[float] = IMAGENET_STD,
) -> torch.Tensor:
    """Turn uint8 (B, S, S, 3) into a network's input, float32 (B, 3, S, S), channels_last."""
    pixels = images.permute(0, 3, 1, 2) / 255
    return (pixels - of_channels(mean, pixels)) / of_channels(std, pixels)


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
    """Loads whole batches of crops; `dataset[indices]`."""

    def __init__(
        self,
        root: str | os.PathLike,
        keys: Keys,
        image_size: int,
        labels: np.ndarray | None,
        crop: Crop = centre_crop,
    ) -> None:
        self.root = Path(root)
        self.keys = keys
        self.image_size = image_size
        self.labels = labels
        self.crop = crop

    def __getitem__(self, indices: np.ndarray) -> Batch:
        """Return the batch of these images (see `PlainLoader`)."""
        return self.load(
            indices, lambda index, path: self.crop(decode(path).image, self.image_size)
        )

    def load(self, indices: np.ndarray, read: Callable[[int, str], np.ndarray]) -> Batch:
        """Return the batch of these images, each made by `read(index, path)`.

        UserError where the shared memory has no room for it.
        """
        # written where the process that asked for the batch reads it
        batch: Batch = {
            "image": new_tensor((len(indices), self.image_size, self.image_size, 3), torch.uint8)
        }
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


class PlainLoader:
    """Iterates over a folder's images once, in the order of `batches`.

    Made by `build_plain_loader`, or of another `PlainDataset` and whatever yields its batches.

    A batch is a dict:

    index       int64 (B,)            places in `keys`; B is smaller by the unreadable images
    label       int64 (B,)            only when labels were given
    image       uint8 (B, S, S, 3)    RGB; `normalise` makes a network's input of it
    unreadable  list of (key, reason) of this batch's images that are left out; `unreadable_of`

    Raises
    ------
    UserError
        A loading process has no room in the shared memory for a batch.
    """

    def __init__(self, dataset: PlainDataset, batches: Iterable, options: dict) -> None:
        self.keys = dataset.keys
        self._loader = DataLoader(dataset, batch_size=None, sampler=batches, **options)

    def __len__(self) -> int:
        return len(self._loader)

    def __iter__(self) -> Iterator[Batch]:
        return user_errors_of_workers(self._loader)


def build_plain_loader(
    root: str | os.PathLike,
    *,
    image_size: int = 224,
    batch_size: int = 256,
    workers: int = 0,
    keys: Keys | None = None,
    labels: Sequence[int] | np.ndarray | None = None,
    indices: Sequence[int] | np.ndarray | None = None,
    pin_memory: bool = False,
    crop: Crop = centre_crop,
) -> PlainLoader:
    """Return a loader of images as evaluation sees them.

    Parameters
    ----------
    root : the image folder.
    image_size : side of the crops, pixels.
    workers : processes that load; 0 loads in this process.
    keys : the folder's images, when they have been listed already.
    labels : a class number per image, in the order of the keys; see `data.images.labels`.
    indices : which images, in which order; default: all. A subset, or one process's share.
    crop : default: Resize(image_size * 256 / 224), CenterCrop(image_size).

    Raises
    ------
    UserError
        No images there; a batch size or image size below 1.
    """
    keys = list_images(root) if keys is None else keys
    if batch_size < 1 or image_size < 1:
        name, value = ("batch size", batch_size) if batch_size < 1 else ("image size", image_size)
        raise UserError(f"the {name} {value} is not positive; give 1 or more.")
    if labels is not None and len(labels) != len(keys):
        raise ValueError(f"{len(labels)} labels for {len(keys)} images")
    rows = np.arange(len(keys)) if indices is None else np.asarray(indices, np.int64)
    batches = [rows[start : start + batch_size] for start in range(0, len(rows), batch_size)]
    dataset = PlainDataset(
        root, keys, image_size, None if labels is None else np.asarray(labels, np.int64), crop
    )
    options = {
        "num_workers": workers,
        "pin_memory": pin_memory,
        "worker_init_fn": LoadingWorkers(),
    }
    return PlainLoader(dataset, batches, options)
