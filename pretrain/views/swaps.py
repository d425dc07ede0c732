"""What a view takes of another image of the data set: background, place of the object, object.

The partner follows from (seed, epoch, index, view), as a background does, and never from the batch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from data.backgrounds import cover_box
from data.backgrounds.partner import Partner, Partners, object_free, salient_box, tight_box
from data.images.crop import Box, box_within, crop_resize, reduction_for, sample_box, snap_box
from pretrain.views.copy_paste import cut_mask
from pretrain.views.draws import Draw, draw_view, later_uniforms, uniforms
from pretrain.views.placement import Placement, in_place_of, showing
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
