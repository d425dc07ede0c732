"""The background challenge's variants of an image, made from the image and its foreground mask.

Xiao, Engstrom, Ilyas, Madry: Noise or Signal: The Role of Image Backgrounds in Object Recognition,
ICLR 2021 (ImageNet-9). Its masks come from GrabCut in annotated boxes; here they are anybody's.

| variant      | foreground            | background                                             |
|--------------|-----------------------|--------------------------------------------------------|
| original     | its own               | its own                                                |
| only_fg      | its own               | black                                                  |
| no_fg        | black silhouette      | its own                                                |
| only_bg_b    | black bounding box    | its own                                                |
| only_bg_t    | none: box tiled over  | its own                                                |
| mixed_same   | its own               | another image's of the same class, tiled as only_bg_t  |
| mixed_rand   | its own               | another image's of a random class (its own may come up)|
| mixed_next   | its own               | another image's of the next class                      |
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
from torch.utils.data import Dataset
from tqdm import tqdm

from data.errors import UserError
from data.images.crop import centre_crop
from data.images.decode import UnreadableImage, decode, key_path, read_size
from evaluate.labelled import Labelled
from evaluate.masks import MaskFinder, NoMask
from evaluate.options import MASK_THRESHOLD

ALONE = ("original", "only_fg", "no_fg", "only_bg_b", "only_bg_t")
MIXED = ("mixed_same", "mixed_rand", "mixed_next")
VARIANTS = ALONE + MIXED
LARGEST_BOX = 0.9  # of the crop: beyond, too little background is left to swap


class Box(NamedTuple):
    """A rectangle of pixels: rows top..bottom, columns left..right, the ends not included."""

    top: int
    left: int
    bottom: int
    right: int

    @property
    def area(self) -> int:
        """Pixels in it."""
        return (self.bottom - self.top) * (self.right - self.left)


def bounding_box(mask: np.ndarray) -> Box | None:
    """The smallest box around the True pixels of a bool mask (h, w); None where there are none."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return None
    return Box(int(rows[0]), int(columns[0]), int(rows[-1]) + 1, int(columns[-1]) + 1)


def background_strip(shape: tuple[int, int], box: Box) -> Box:
    """The largest of the strips above, below, left and right of a box, as long as the image."""
    height, width = shape
    strips = (
        Box(0, 0, box.top, width),
        Box(box.bottom, 0, height, width),
        Box(0, 0, height, box.left),
        Box(0, box.right, height, width),
    )
    return max(strips, key=lambda strip: strip.area)


def tile_box(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Fill the mask's bounding box with copies of the largest background strip beside it.

    Parameters
    ----------
    image : (h, w, 3) uint8
    mask : (h, w) bool, neither empty nor with a bounding box of the whole image

    Returns
    -------
    (h, w, 3) uint8; the first copy of the strip has its corner in the box's upper left corner
    """
    box = bounding_box(mask)
    strip = background_strip(mask.shape, box)
    piece = image[strip.top : strip.bottom, strip.left : strip.right]
    height, width = box.bottom - box.top, box.right - box.left
    times = (-(-height // piece.shape[0]), -(-width // piece.shape[1]), 1)
    filled = image.copy()
    filled[box.top : box.bottom, box.left : box.right] = np.tile(piece, times)[:height, :width]
    return filled


def alone(image: np.ndarray, mask: np.ndarray) -> dict[str, np.ndarray]:
    """The variants that need no other image, each (h, w, 3) uint8.

    image : (h, w, 3) uint8; mask : (h, w) bool, as `tile_box` takes them
    """
    box = bounding_box(mask)
    foreground = mask[..., None]
    boxed = image.copy()
    boxed[box.top : box.bottom, box.left : box.right] = 0
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


def with_backgrounds(
    images: Labelled, finder: MaskFinder, size: int, threshold: int = MASK_THRESHOLD
) -> tuple[Labelled, dict[str, str]]:
    """The images that have a foreground and a background in their centre crop.

    Of the others key -> reason.

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
        except (NoMask, UnreadableImage) as reason:
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
    return images.take(kept), left_out


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
    """All variants of an image at once: (row, {variant: uint8 (S, S, 3)}).

    images : readable ones, of `with_backgrounds`
    """

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
        image = decode(key_path(self.images.root, key)).image
        mask = self.finder.read(key, image.shape[:2], self.size)
        return centre_crop(image, self.size), mask >= self.threshold

    def __getitem__(self, row: int) -> tuple[int, dict[str, np.ndarray]]:
        image, mask = self.crop(row)
        variants = alone(image, mask)
        for name in MIXED:
            background = tile_box(*self.crop(int(self.donors[name][row])))
            variants[name] = mixed(image, mask, background)
        return row, variants


def imagenet9_variants(root: Path) -> tuple[str, ...]:
    """The variants in ImageNet-9's own layout, `<root>/<variant>/val/<class>/`; () in another."""
    there = tuple(name for name in VARIANTS if (root / name / "val").is_dir())
    return there if "original" in there and len(there) > 1 else ()
