"""Other images of the data set as partners: their objects' boxes, and pictures without the object.

A partner is drawn like a background, by a number in [0, 1), and never out of the batch: so views
follow from (seed, epoch, index, view) alone.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import cv2
import numpy as np

from data.backgrounds import UnreadableBackground, read_chosen
from data.errors import UserError
from data.images.decode import OpenImage, UnreadableImage, open_image
from data.images.listing import key_path
from data.keys import Keys
from data.masks.read import MaskShards

if TYPE_CHECKING:
    from data.images.crop import Box

FOREGROUND = 127  # levels above are the object: S > .5
_MARGIN = 0.1  # of the box's sides
_LEAST, _MOST = 0.02, 0.9  # of the image, the area of a box that can be swapped


def tight_box(mask: np.ndarray, level: int = FOREGROUND) -> Box | None:
    """Return the box of what is above a level in a mask, uint8 or bool (h, w); None: nothing is."""
    left, top, width, height = cv2.boundingRect((mask > level).astype(np.uint8))
    return (top, left, height, width) if height else None


def salient_box(mask: np.ndarray, size: tuple[int, int]) -> Box | None:
    """Return the object's box in an image: the mask's tight box, enlarged by a tenth of its sides.

    None: it is empty, below 2 % or above 90 % of the image, and so no object to be swapped.

    mask : uint8 (h, w), at its own resolution.
    size : (height, width) of the image.
    """
    box = tight_box(mask)
    if box is None:
        return None
    ends = []
    for start, length, pixels, limit in zip(box[:2], box[2:], mask.shape, size, strict=True):
        scale, margin = limit / pixels, _MARGIN / 2 * length
        low = max(0, round((start - margin) * scale))
        ends.append((low, min(limit, max(low + 1, round((start + length + margin) * scale)))))
    (top, bottom), (left, right) = ends
    box = top, left, bottom - top, right - left
    share = box[2] * box[3] / (size[0] * size[1])
    return box if _LEAST <= share <= _MOST else None


def object_free(image: np.ndarray, box: Box) -> np.ndarray:
    """Return an image whose box is covered by tiles of its largest other part, uint8 (h, w, 3).

    Of the four strips above, below, left and right of the box the largest is repeated over it, as
    in BGMix (Mo et al., NeurIPS 2021, section 3.2, and its code).
    """
    top, left, height, width = box
    strips = (image[:top], image[top + height :], image[:, :left], image[:, left + width :])
    strip = max(strips, key=lambda part: part.shape[0] * part.shape[1])
    if not strip.size:
        return image
    down, across = -(-height // strip.shape[0]), -(-width // strip.shape[1])
    filled = image.copy()
    filled[top : top + height, left : left + width] = np.tile(strip, (down, across, 1))[
        :height, :width
    ]
    return filled


class Partner(NamedTuple):
    """Another image: its header is read, its pixels are not. mask : uint8 (h, w)."""

    number: int
    image: OpenImage
    mask: np.ndarray

    def free_of_object(self, reduction: int = 1) -> tuple[np.ndarray, int]:
        """Return the picture without its object, uint8 (h, w, 3), and by what it was reduced."""
        box = salient_box(self.mask, self.image.size)
        pixels, factor = self.image.decode(reduction)
        if box is not None:
            top, left = (start // factor for start in box[:2])
            bottom, right = (-(-(box[n] + box[n + 2]) // factor) for n in (0, 1))
            pixels = object_free(pixels, (top, left, bottom - top, right - left))
        return pixels, factor


class Partners:
    """The images of a data set that have a mask with something in it.

    images, keys : the folder and its images.
    masks, rows : the mask shards, and int64 (N,) each image's row in them, negative without.

    UserError: fewer than two images have a mask.
    """

    def __init__(
        self, images: str | os.PathLike, keys: Keys, masks: MaskShards, rows: np.ndarray
    ) -> None:
        self.images, self.keys, self.masks, self.rows = images, keys, masks, rows
        self.numbers = np.flatnonzero(rows >= 0)
        if len(self.numbers) < 2:
            raise UserError(
                f"{len(self.numbers)} of the images in {os.fspath(images)!r} have a mask in "
                f"{str(masks.folder)!r}, and a partner is another image with one; compute masks."
            )

    def read(
        self, index: int, uniform: float, cut: Callable[[Partner], Any]
    ) -> tuple[Any, list[str]]:
        """Return what `cut` makes of the partner of image `index` that a number selects.

        One that cannot be read is skipped for the next, and named; see `read_chosen`.
        """
        return read_chosen(_Others(self, index, cut), uniform)


class _Others:
    """All partners of an image but itself, as a source of what is cut out of them."""

    def __init__(self, partners: Partners, index: int, cut: Callable) -> None:
        self.partners, self.cut = partners, cut
        numbers = partners.numbers
        first = int(np.searchsorted(numbers, index))
        inside = first < len(numbers) and numbers[first] == index
        self.left_out = first if inside else len(numbers)

    def __len__(self) -> int:
        return len(self.partners.numbers) - (self.left_out < len(self.partners.numbers))

    def read(self, number: int) -> object:
        p = self.partners
        index = int(p.numbers[number + (number >= self.left_out)])
        key, row = p.keys[index], int(p.rows[index])
        try:
            image = open_image(key_path(p.images, key))
            p.masks.check_size(row, image.size)
            return self.cut(Partner(index, image, p.masks.read(row)))
        except UnreadableImage as error:
            raise UnreadableBackground("partner", key, p.images, error) from None
