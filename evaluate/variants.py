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

from typing import NamedTuple

import numpy as np

ALONE = ("original", "only_fg", "no_fg", "only_bg_b", "only_bg_t")
MIXED = ("mixed_same", "mixed_rand", "mixed_next")
VARIANTS = ALONE + MIXED


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
