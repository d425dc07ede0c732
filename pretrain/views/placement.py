"""Where a cut-out lies in a view: pure functions of a draw's uniform numbers.

A box is (top, left, height, width) in whole pixels: of an image where something is cut out of it,
of a view where it is put.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

Box = tuple[int, int, int, int]

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


def showing(crop: Box, box: Box) -> Box:
    """Return a crop moved as little as shows all of a box, or, if the crop is smaller, only it.

    Both lie within the image, and so does the result.
    """
    moved = []
    for start, length, first, side in zip(crop[:2], crop[2:], box[:2], box[2:], strict=True):
        ends = sorted((first, first + side - length))
        moved.append(min(max(start, ends[0]), ends[1]))
    return (*moved, *crop[2:])


def in_place_of(cut: Box, box: Box, crop: Box, size: int) -> Placement:
    """Put a cut-out where a crop of another image shows a box; what leaves the view is cut off.

    cut : of its own image.
    box, crop : of the other image; the crop shows a part of the box.
    size : of the view that the crop becomes.
    """
    parts, frame = [], []
    for axis in (0, 1):
        scale = size / crop[2 + axis]
        first = (box[axis] - crop[axis]) * scale
        length = box[2 + axis] * scale
        low = min(size - 1, max(0, round(first)))
        high = max(low + 1, min(size, round(first + length)))
        frame.append((low, high - low))
        # of the cut-out the part that the visible part is of the box, at least a pixel
        start, side = cut[axis], cut[2 + axis]
        begin = min(side - 1, max(0, round((max(0.0, first) - first) / length * side)))
        end = max(
            begin + 1, min(side, round((min(float(size), first + length) - first) / length * side))
        )
        parts.append((start + begin, end - begin))
    (top, height), (left, width) = parts
    (frame_top, frame_height), (frame_left, frame_width) = frame
    return Placement((top, left, height, width), (frame_top, frame_left, frame_height, frame_width))
