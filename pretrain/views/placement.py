"""Where a cut-out lies in a view: pure functions of a draw's uniform numbers.

A box is (top, left, height, width) in whole pixels: of an image where something is cut out of it,
of a view where it is put.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from data.images.crop import Box

_BESIDE = 1.2
FRAME = (128 / 256, 254 / 256)  # sides of a random frame, of the view's (InstanceLoc's code)


class Placement(NamedTuple):
    """Part of an image, and the box of the view that it fills."""

    cut: Box
    frame: Box

    def paste(self, size: int, cut: Callable[[Box, tuple[int, int]], np.ndarray]) -> np.ndarray:
        """Return a view, uint8 (size, size, ...), 0 but for what `cut(box, its size)` gives."""
        top, left, height, width = self.frame
        inside = cut(self.cut, (height, width))
        if (height, width) == (size, size):
            return inside
        canvas = np.zeros((size, size, *inside.shape[2:]), np.uint8)
        canvas[top : top + height, left : left + width] = inside
        return canvas


def random_frame(cut: Box, size: int, numbers: np.ndarray) -> Box:
    """Return where a cut-out is put, anywhere in the view, its aspect ratio kept.

    It is scaled to fit a frame of random sides, whole pixels from 128 to 254 in a view of 256 and
    in proportion in others, which is then placed evenly where it fits (InstanceLoc, Yang et al.,
    CVPR 2021, by its code).

    numbers : four in [0, 1): the frame's height and width, top and left.
    """
    low, high = (round(share * size) for share in FRAME)
    height, width = (low + int(u * (high - low + 1)) for u in numbers[:2])
    scale = min(height / cut[2], width / cut[3])
    height, width = (max(1, min(size, round(side * scale))) for side in cut[2:])
    top, left = (
        int(u * (size - side + 1)) for u, side in zip(numbers[2:4], (height, width), strict=True)
    )
    return top, left, height, width


def showing(crop: Box, box: Box, size: tuple[int, int]) -> Box:
    """Return a crop changed as little as shows all of a box and, where it can, something beside it.

    Its sides grow to 1.2 times the box's, where the image's `size` allows; then it is moved.
    """
    starts, lengths = [], []
    for axis in (0, 1):
        start, length, first, side = crop[axis], crop[2 + axis], box[axis], box[2 + axis]
        grown = min(size[axis], max(length, math.ceil(_BESIDE * side)))
        start -= (grown - length) // 2
        start = min(max(start, first + side - grown, 0), first, size[axis] - grown)
        starts.append(start)
        lengths.append(grown)
    return (*starts, *lengths)


def in_place_of(cut: Box, box: Box, crop: Box, size: int) -> Placement:
    """Put a cut-out where a crop of another image shows a box.

    cut : of its own image.
    box, crop : of the other image.
    size : of the view that the crop becomes.
    """
    sides = []
    for axis in (0, 1):
        scale = size / crop[2 + axis]
        low = min(size - 1, max(0, round((box[axis] - crop[axis]) * scale)))
        high = round((box[axis] + box[2 + axis] - crop[axis]) * scale)
        sides.append((low, max(low + 1, min(size, high)) - low))
    (top, height), (left, width) = sides
    return Placement(cut, (top, left, height, width))
