"""The background challenge's variants of an image, made from the image and its foreground mask.

Xiao, Engstrom, Ilyas, Madry: Noise or Signal: The Role of Image Backgrounds in Object Recognition,
ICLR 2021 (ImageNet-9). Its masks come from GrabCut in annotated boxes; here they are anybody's.
`alone` and `mixed` make the variants; docs/probe.md has a table of them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from data.backgrounds import Kept
from data.backgrounds.partner import object_free, tight_box
from data.errors import UserError
from data.images.labels import Labelled
from evaluate.masks import Masks
from evaluate.options import MASK_THRESHOLD

ALONE = ("original", "only_fg", "no_fg", "only_bg_b", "only_bg_t")
MIXED = ("mixed_same", "mixed_rand", "mixed_next")
VARIANTS = ALONE + MIXED
BACKGROUND_BYTES = 128 << 20  # that each process keeps
LARGEST_BOX = 0.9  # of the crop: beyond, too little background is left to swap


def tile_box(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Fill the mask's bounding box with copies of the largest background strip beside it.

    image : (h, w, 3) uint8
    mask : (h, w) bool, neither empty nor with a bounding box of the whole image

    Returns (h, w, 3) uint8; the first copy has its corner in the box's upper left corner.
    """
    return object_free(image, tight_box(mask, 0))


def alone(image: np.ndarray, mask: np.ndarray) -> dict[str, np.ndarray]:
    """The variants that need no other image, each (h, w, 3) uint8.

    image : (h, w, 3) uint8; mask : (h, w) bool, as `tile_box` takes them
    """
    top, left, height, width = tight_box(mask, 0)
    foreground = mask[..., None]
    boxed = image.copy()
    boxed[top : top + height, left : left + width] = 0
    return {
        "original": image,
        "only_fg": np.where(foreground, image, 0),
        "no_fg": np.where(foreground, 0, image),
        "only_bg_b": boxed,
        "only_bg_t": tile_box(image, mask),
    }


def mixed(image: np.ndarray, mask: np.ndarray, background: np.ndarray) -> np.ndarray:
    """The foreground on a background of the same size: (h, w, 3) uint8."""
    return np.where(mask[..., None], image, background)


@dataclass
class Crops:
    """Centre crops of readable images, S pixels a side, and of their masks."""

    images: Labelled
    masks: Masks
    size: int
    threshold: int = MASK_THRESHOLD

    def __len__(self) -> int:
        return len(self.images)

    def crop(self, row: int) -> tuple[np.ndarray, np.ndarray]:
        """An image's crop, uint8 (S, S, 3), and its foreground, bool (S, S)."""
        from data.images.crop import centre_crop  # needs torch

        image = self.images.image(row)
        mask = self.masks.cut(self.images.keys[row], image.shape[:2], self.size)
        return centre_crop(image, self.size), mask >= self.threshold

    def background(self, row: int) -> np.ndarray:
        """A crop without its object, uint8 (S, S, 3)."""
        return tile_box(*self.crop(row))


def usable(
    images: Labelled, masks: Masks, size: int, threshold: int = MASK_THRESHOLD
) -> tuple[Crops, dict[str, str]]:
    """The images that have a foreground and a background in their centre crop.

    Of the others key -> reason.
    """
    kept, left_out = [], {}
    for row, mask in masks.foregrounds(images, size, threshold, "masks"):
        if isinstance(mask, str):
            left_out[images.keys[row]] = mask
        elif np.prod(tight_box(mask, 0)[2:]) > LARGEST_BOX * mask.size:
            reason = f"has a mask whose box covers over {LARGEST_BOX:.0%} of the image"
            left_out[images.keys[row]] = reason
        else:
            kept.append(row)
    return Crops(images.take(np.array(kept, np.int64)), masks, size, threshold), left_out


def check_classes_left(crops: Crops, left_out: dict[str, str], option: str = "--masks") -> None:
    """Refuse what `usable` gives where a class is left without two images."""
    images = crops.images
    counts = np.bincount(images.labels, minlength=len(images.classes))
    if counts.min() < 2:
        name = images.classes[int(counts.argmin())]
        reason = next((f"; {k} {r}" for k, r in left_out.items() if k.startswith(name + "/")), "")
        raise UserError(
            f"{option}: the class '{name}' has {counts.min()} images with a usable mask, and two "
            f"are needed to swap backgrounds{reason}."
        )


def donors(
    labels: np.ndarray, classes: int, seed: int = 0, count: int = 1
) -> dict[str, np.ndarray]:
    """Whose backgrounds each image gets: for each mixed variant the donors' rows, int64 (N, count).

    The same class is the image's own, the next one (label + 1) mod C, the random one uniform over
    all classes. No image is its own donor. Drawn from (seed, row, variant), one after another, so
    that the first donors do not depend on their count.
    """
    rows_of = [np.flatnonzero(labels == label) for label in range(classes)]
    chosen = {name: np.empty((len(labels), count), np.int64) for name in MIXED}
    for row, label in enumerate(labels):
        for number, name in enumerate(MIXED):
            rng = np.random.default_rng((seed, row, number))
            for turn in range(count):
                if name == "mixed_rand":
                    choice = rows_of[rng.integers(classes)]
                else:
                    choice = rows_of[label if name == "mixed_same" else (label + 1) % classes]
                chosen[name][row, turn] = rng.choice(choice[choice != row])
    return chosen


class VariantImages:
    """A data set of all variants of an image at once: (row, {variant: uint8 (n, S, S, 3)}).

    n is `count`, one picture for each donor, in the mixed variants, and 1 in the others.

    crops : of which each class has two or more
    """

    def __init__(self, crops: Crops, seed: int = 0, count: int = 1):
        self.crops = crops
        self.donors = donors(crops.images.labels, len(crops.images.classes), seed, count)
        self.kept = Kept(BACKGROUND_BYTES)  # an image is a donor many times

    def __len__(self) -> int:
        return len(self.crops)

    def __getitem__(self, row: int) -> tuple[int, dict[str, np.ndarray]]:
        image, mask = self.crops.crop(row)
        variants = {name: picture[None] for name, picture in alone(image, mask).items()}
        for name in MIXED:
            rows = (int(donor) for donor in self.donors[name][row])
            behind = (self.kept.get(donor, self.crops.background) for donor in rows)
            variants[name] = np.stack([mixed(image, mask, background) for background in behind])
        return row, variants
