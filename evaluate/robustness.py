"""Accuracy with backgrounds swapped: images, their masks, and which background goes with which."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from data.errors import UserError
from data.images.crop import centre_crop, evaluation_size, sample_box
from data.images.decode import UnreadableImage, decode, key_path, read_size
from evaluate.choices import MASK_THRESHOLD
from evaluate.labelled import Labelled
from evaluate.masks import Masks, Unusable, stem
from evaluate.variants import MIXED, alone, bounding_box, mixed, tile_box

LARGEST_BOX = 0.9  # of the crop: beyond, too little background is left to swap


def centre_box(height: int, width: int, size: int) -> tuple[float, float, float, float]:
    """Where `centre_crop` cuts, in pixels of the image: (top, left, height, width)."""
    target = evaluation_size(height, width, size)
    y, x = height / target[0], width / target[1]
    top, left = round((target[0] - size) / 2), round((target[1] - size) / 2)
    return top * y, left * x, size * y, size * x


def crop_mask(mask: np.ndarray, image_size: tuple[int, int], size: int) -> np.ndarray:
    """The part of a mask, at whatever resolution, that the image's centre crop shows.

    mask : uint8 (h, w); image_size : (height, width) of its image. Returns uint8 (size, size).
    """
    y, x = mask.shape[0] / image_size[0], mask.shape[1] / image_size[1]
    top, left, height, width = centre_box(*image_size, size)
    return sample_box(mask, (top * y, left * x, height * y, width * x), (size, size))


class MaskFinder:
    """Masks by image key, whether they were computed for IMAGES or for a folder below it.

    Parameters
    ----------
    masks : as `open_masks` gives them
    folder : the name of the images' folder below IMAGES, such as `val`; '' where there is none
    """

    def __init__(self, masks: Masks, folder: str = ""):
        self.masks = masks
        self.prefix = f"{folder}/" if folder else ""

    def name(self, key: str) -> str | None:
        """The mask's name for an image, or None."""
        plain = stem(key)
        return next((n for n in (self.prefix + plain, plain) if n in self.masks), None)

    def read(self, key: str, image_size: tuple[int, int], size: int) -> np.ndarray:
        """The mask in the image's centre crop, uint8 (size, size); `Unusable` says why not."""
        name = self.name(key)
        if name is None:
            raise Unusable("has no mask")
        mask = self.masks.read(name)
        if mask.image_size is not None and tuple(mask.image_size) != tuple(image_size):
            theirs = f"{mask.image_size[1]}x{mask.image_size[0]}"
            raise Unusable(f"is {image_size[1]}x{image_size[0]}, its mask is of {theirs}")
        return crop_mask(mask.values, image_size, size)


@dataclass
class Usable:
    """Images whose masks can be used, and why the others cannot: key -> reason."""

    images: Labelled
    left_out: dict[str, str] = field(default_factory=dict)


def usable_images(
    images: Labelled, finder: MaskFinder, size: int, threshold: int = MASK_THRESHOLD
) -> Usable:
    """Find the images that have a foreground and a background in their centre crop.

    Raises
    ------
    UserError
        A class is left without two images; the sentence says why its images are left out.
    """
    kept, left_out = [], {}
    bar = tqdm(images.keys, desc="masks", unit="image", disable=None)
    for row, key in enumerate(bar):
        try:
            image_size = read_size(key_path(images.root, key))
            mask = finder.read(key, image_size, size) >= threshold
        except (Unusable, UnreadableImage) as reason:
            left_out[key] = str(reason)
            continue
        box = bounding_box(mask)
        if box is None:
            left_out[key] = f"has an empty mask: nothing from {threshold} up"
        elif box.area > LARGEST_BOX * mask.size:
            left_out[key] = f"has a mask whose box covers over {LARGEST_BOX:.0%} of the image"
        else:
            kept.append(row)
    kept = np.array(kept, np.int64)
    counts = np.bincount(images.labels[kept], minlength=len(images.classes))
    if counts.min() < 2:
        name = images.classes[int(counts.argmin())]
        reason = next((f"; {k} {r}" for k, r in left_out.items() if k.startswith(name + "/")), "")
        raise UserError(
            f"--masks: the class '{name}' has {counts.min()} images with a usable mask, and two "
            f"are needed to swap backgrounds{reason}."
        )
    return Usable(images.take(kept), left_out)


def donors(labels: np.ndarray, classes: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Whose background each image gets: for each mixed variant the donors' rows, int64 (N,).

    The same class is the image's own, the next one (label + 1) mod C, the random one uniform over
    all classes. No image is its own donor. Drawn from (seed, row, variant).
    """
    rows_of = [np.flatnonzero(labels == label) for label in range(classes)]
    chosen = {name: np.empty(len(labels), np.int64) for name in MIXED}
    for row, label in enumerate(labels):
        for number, name in enumerate(MIXED):
            rng = np.random.default_rng((seed, row, number))
            if name == "mixed_same":
                donor_class = label
            elif name == "mixed_next":
                donor_class = (label + 1) % classes
            else:
                donor_class = rng.integers(classes)
            choice = rows_of[donor_class]
            if donor_class == label:
                choice = choice[choice != row]
            chosen[name][row] = rng.choice(choice)
    return chosen


class VariantImages(Dataset):
    """All variants of an image at once: (row, {variant: uint8 (S, S, 3)}), from usable images."""

    def __init__(
        self,
        images: Labelled,
        finder: MaskFinder,
        size: int,
        threshold: int = MASK_THRESHOLD,
        seed: int = 0,
    ):
        self.images, self.finder, self.size, self.threshold = images, finder, size, threshold
        self.donors = donors(images.labels, len(images.classes), seed)

    def __len__(self) -> int:
        return len(self.images)

    def crop(self, row: int) -> tuple[np.ndarray, np.ndarray]:
        """An image's centre crop, uint8 (S, S, 3), and its foreground, bool (S, S)."""
        key = self.images.keys[row]
        try:
            image = decode(key_path(self.images.root, key)).image
        except UnreadableImage as reason:  # its header was fine
            raise UserError(f"IMAGES: '{key}' cannot be read ({reason}); remove it.") from None
        mask = self.finder.read(key, image.shape[:2], self.size)
        return centre_crop(image, self.size), mask >= self.threshold

    def __getitem__(self, row: int) -> tuple[int, dict[str, np.ndarray]]:
        image, mask = self.crop(row)
        variants = alone(image, mask)
        for name in MIXED:
            background = tile_box(*self.crop(int(self.donors[name][row])))
            variants[name] = mixed(image, mask, background)
        return row, variants


def _collate(samples: list[tuple[int, dict[str, np.ndarray]]]) -> dict[str, torch.Tensor]:
    """Rows (B,) under "row", and uint8 (B, S, S, 3) for each variant."""
    batch = {"row": torch.tensor([row for row, _ in samples])}
    for name in samples[0][1]:
        batch[name] = torch.from_numpy(np.stack([variants[name] for _, variants in samples]))
    return batch


def variant_batches(
    images: VariantImages, batch_size: int, workers: int, pin_memory: bool = False
) -> Iterator[dict[str, torch.Tensor]]:
    """Batches over all images, in order."""
    return iter(
        DataLoader(
            images,
            batch_size=batch_size,
            num_workers=workers,
            collate_fn=_collate,
            pin_memory=pin_memory,
        )
    )


@dataclass(frozen=True)
class Folders:
    """ImageNet-9's own layout: `<root>/<variant>/val/<class>/`, and perhaps `original/train/`."""

    root: Path
    variants: tuple[str, ...]

    def val(self, variant: str) -> Path:
        """The labelled folder of a variant."""
        return self.root / variant / "val"


def imagenet9_folders(root: Path, names: tuple[str, ...]) -> Folders | None:
    """Recognise ImageNet-9's layout: the variants that are there, or None where it is another."""
    there = tuple(name for name in names if (root / name / "val").is_dir())
    return Folders(root, there) if "original" in there and len(there) > 1 else None
