"""What a view takes of another image of the data set: background, place of the object, object.

The partner follows from (seed, epoch, index, view), as a background does, and never from the batch.

Where a cut-out lies in a view is decided by pure functions of a draw's uniform numbers. A box is
(top, left, height, width) in whole pixels: of an image where something is cut out of it, of a view
where it is put.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from data.backgrounds import cover_box
from data.backgrounds.partner import Partner, Partners, object_free, salient_box, tight_box
from data.images.crop import Box, box_within, crop_resize, reduction_for, sample_box, snap_box
from pretrain.views.copy_paste import cut_mask
from pretrain.views.draws import Draw, draw_view, later_uniforms, uniforms
from pretrain.views.recipes import ViewRecipe

Numbers = tuple[int, int, int, int]  # (seed, epoch, index, view)


class Negative(NamedTuple):
    """Another image's view: image uint8 (S, S, 3), its mask uint8 (S, S), and how it was drawn."""

    draw: Draw
    image: np.ndarray
    mask: np.ndarray


@dataclass
class Swaps:
    """Partners, cut as a recipe's views are."""

    partners: Partners
    recipe: ViewRecipe

    def free(
        self, numbers: Numbers, draw: Draw, image_size: tuple[int, int]
    ) -> tuple[np.ndarray, list[str]]:
        """Return what of a partner without its object lies behind a view, and partners skipped."""
        side = self.recipe.image_size

        def cut(partner: Partner) -> np.ndarray:
            behind = cover_box(partner.image.size, image_size, draw.offset)
            part = box_within(behind, draw.box, image_size)
            pixels, factor = partner.free_of_object(reduction_for([part], side))
            return sample_box(pixels, tuple(end / factor for end in part), (side, side))

        return self._read(numbers, draw.partner, cut)

    def over(
        self, numbers: Numbers, draw: Draw
    ) -> tuple[tuple[np.ndarray, Placement] | None, list[str]]:
        """Return a partner's crop that shows its object, and the place there for the view's own.

        None: the partner has no object that can be swapped.
        """

        def cut(partner: Partner) -> tuple[np.ndarray, Placement] | None:
            box = salient_box(partner.mask, partner.image.size)
            if box is None:
                return None
            crop = showing(self._draw(numbers, partner).box, box, partner.image.size)
            pixels, crop = self._pixels(partner, crop)
            return pixels, in_place_of(draw.cut, box, crop, self.recipe.image_size)

        return self._read(numbers, draw.partner, cut)

    def negative(self, numbers: Numbers) -> tuple[Negative, list[str]]:
        """Return a view of a partner."""
        side = self.recipe.image_size

        def cut(partner: Partner) -> Negative:
            draw = self._draw(numbers, partner)
            pixels, box = self._pixels(partner, draw.box)
            mask = cut_mask(partner.mask, box, partner.image.size, (side, side))
            return Negative(draw, pixels, mask)

        return self._read(numbers, float(later_uniforms(*numbers)[0]), cut)

    def _read(
        self, numbers: Numbers, uniform: float, cut: Callable[[Partner], Any]
    ) -> tuple[Any, list[str]]:
        return self.partners.read(numbers[2], uniform, cut)

    def _draw(self, numbers: Numbers, partner: Partner) -> Draw:
        later = later_uniforms(*numbers) if self.recipe.crop == "object" else None
        return draw_view(
            self.recipe, None, uniforms(*numbers), partner.image.size, later, partner.mask
        )

    def _pixels(self, partner: Partner, box: Box) -> tuple[np.ndarray, Box]:
        """Decode a partner and cut a box; it is moved where the image is reduced."""
        side = self.recipe.image_size
        pixels, factor = partner.image.decode(reduction_for([box], side))
        if factor > 1:
            box = snap_box(box, factor, partner.image.size)
        return crop_resize(pixels, tuple(end // factor for end in box), side), box


def own_background(image: np.ndarray, saliency: np.ndarray) -> np.ndarray | None:
    """Return a view without its object, uint8 (S, S, 3); None where the object fills it.

    image : uint8 (S, S, 3).
    saliency : uint8 (S, S), the object's mask or the box that hides it.
    """
    box = tight_box(saliency)
    if box is None:
        return image
    return None if box == (0, 0, *saliency.shape) else object_free(image, box)


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
