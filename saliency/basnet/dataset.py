"""Photographs with their ground truth, resized, cropped and flipped as BASNet is trained."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch

from data.errors import UserError
from data.images.decode import UnreadableImage, decode
from data.images.listing import by_stem, key_path, list_images
from data.loading import Request, as_tensor
from saliency.basnet.predict import normalise, resize_image


class Pair(NamedTuple):
    """The paths of a photograph and of its ground truth, "" where there is none; their name."""

    name: str
    image: str
    mask: str


def list_pairs(
    images: str | os.PathLike, masks: str | os.PathLike | None = None, argument: str = "IMAGES"
) -> list[Pair]:
    """List the photographs that have a ground truth, by name.

    images : a folder of photographs, or, without `masks`, a folder as DUTS is unpacked: `DUTS-TR`
        with `DUTS-TR-Image` and `DUTS-TR-Mask` in it (any `<name>-Image` and `<name>-Mask`).
    masks : a folder of ground truth: the same relative paths, with any extension.
    argument : what the command line calls `images`, for errors.

    Raises UserError: no such folders, a photograph without ground truth or the other way round.
    """
    if masks is None:
        images, masks = _duts_folders(Path(images), argument)
    photographs, truths = _by_name(images), _by_name(masks)
    _check_partners(photographs, "photograph", truths, "ground truth", masks)
    _check_partners(truths, "ground truth", photographs, "photograph", images)
    return [Pair(name, path, truths[name]) for name, path in photographs.items()]


def _by_name(folder: str | os.PathLike) -> dict[str, str]:
    """The paths of a folder's pictures by key without the extension."""
    names = by_stem(folder, list_images(folder))
    return {name: key_path(folder, key) for name, key in names.items()}


def _check_partners(
    these: dict[str, str], what: str, those: dict[str, str], other: str, folder: str | os.PathLike
) -> None:
    alone = sorted(these.keys() - those.keys())
    if alone:
        raise UserError(
            f"{len(alone)} of {len(these)} {what}s have no {other} in {os.fspath(folder)!r}, the "
            f"first is {alone[0]!r}; files pair by name, without the extension."
        )


def _duts_folders(root: Path, argument: str) -> tuple[Path, Path]:
    for folder in sorted(root.glob("*-Image")):
        masks = folder.with_name(folder.name.removesuffix("Image") + "Mask")
        if folder.is_dir() and masks.is_dir():
            return folder, masks
    option = "--val-masks" if argument == "--val" else "--masks"
    raise UserError(
        f"{argument} {os.fspath(root)!r} has no folders <name>-Image and <name>-Mask as DUTS has; "
        f"name the folder of ground truth with {option}."
    )


def read_image(pair: Pair) -> np.ndarray:
    """Decode the photograph, uint8 (h, w, 3). UserError: it cannot be decoded."""
    return _read(pair, pair.image)


def read_truth(pair: Pair) -> np.ndarray:
    """Decode the ground truth, uint8 (h, w). UserError: it cannot be decoded."""
    return _read(pair, pair.mask)[..., 0]


def _read(pair: Pair, path: str) -> np.ndarray:
    try:
        return decode(path).image
    except UnreadableImage as error:
        raise UserError(
            f"the pair {pair.name!r} ({pair.image}, {pair.mask or 'no ground truth'}) cannot be "
            f"read: {error}; mend it or remove both files."
        ) from None


def resize_mask(mask: np.ndarray, size: int) -> np.ndarray:
    """Ground truth uint8 (h, w) to float32 (size, size) in [0, 1], nearest neighbour."""
    resized = cv2.resize(mask, (size, size), interpolation=cv2.INTER_NEAREST_EXACT)
    return resized.astype(np.float32) / (resized.max() or 1)


class TrainingPairs:
    """Resize to a square, crop at random, flip at random; a function of (seed, epoch, index) only.

    resize : side of the square that a photograph is resized to; 256 as published.
    crop : side of the random crop; 224 as published.
    labels : what is learnt in place of the ground truth, each float32 (resize, resize).

    A batch is asked for by its epoch and indices, so that workers hold no state, and a resumed run
    draws what the uninterrupted run would have drawn.
    """

    def __init__(
        self,
        pairs: list[Pair],
        resize: int = 256,
        crop: int = 224,
        seed: int = 0,
        labels: Sequence[np.ndarray] | None = None,
    ):
        self.pairs, self.labels = pairs, labels
        self.resize, self.crop = resize, crop
        self.seed = seed

    def __getitem__(self, request: Request) -> tuple[torch.Tensor, torch.Tensor]:
        """Return inputs (B, 3, S, S) and targets (B, 1, S, S), float32; S is `crop`."""
        pairs = [self._pair(request.epoch, index) for index in request.indices.tolist()]
        inputs, targets = zip(*pairs, strict=True)
        return as_tensor(np.stack(inputs)), as_tensor(np.stack(targets))

    def _pair(self, epoch: int, index: int) -> tuple[np.ndarray, np.ndarray]:
        random = np.random.default_rng((self.seed, epoch, index))
        pair = self.pairs[index]
        inputs = normalise(resize_image(read_image(pair), self.resize))
        if self.labels is None:
            target = resize_mask(read_truth(pair), self.resize)[None]
        else:
            target = self.labels[index][None]
        top, left = random.integers(0, self.resize - self.crop + 1, 2)
        window = np.s_[:, top : top + self.crop, left : left + self.crop]
        inputs, target = inputs[window], target[window]
        if random.random() < 0.5:
            inputs, target = inputs[..., ::-1], target[..., ::-1]
        return inputs, target
