"""Crops that keep the object in view, by its mask.

Their centre lies in the mask's box, drawn by a Beta distribution whose shape, a U, prefers the
box's borders, so that two views differ (ContrastiveCrop, Peng et al., CVPR 2022: Beta(.6, .6)).
A crop must keep a share of the mask (CAST, Selvaraju et al., CVPR 2021: .2 in ten attempts; less
where the mask is larger than the smallest crop).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.special import betaincinv

from data.backgrounds.partner import tight_box
from data.images.crop import Box

_BETA = 0.6


def object_crop(
    sizes: Sequence[tuple[int, int]],
    numbers: np.ndarray,
    mask: np.ndarray,
    image_size: tuple[int, int],
    keep: float,
    least_area: float,
) -> Box | None:
    """Return the first crop that keeps enough of the mask, else the one that keeps most of it.

    None: no size was given, or nothing in the mask is above one half.

    sizes : (height, width) of each attempt's crop, within the image.
    numbers : float (attempts, 2) in [0, 1): of the centre's height and width.
    mask : uint8 (h, w), at its own resolution.
    keep : least share of the mask's sum.
    least_area : of the recipe's crops, of the image's area.
    """
    box = tight_box(mask)
    if box is None or not sizes:
        return None
    scales = [pixels / side for pixels, side in zip(mask.shape, image_size, strict=True)]
    whole = int(mask.sum())
    # A crop of the least area cannot keep more than this of a mask that fills the image.
    enough = min(keep, least_area * 255 * mask.size / whole)
    centres = betaincinv(_BETA, _BETA, numbers[: len(sizes)])
    best, kept = None, -1.0
    for size, centre in zip(sizes, centres.tolist(), strict=True):
        starts = []
        for axis in (0, 1):
            low, high = (
                min(
                    max(0, round(end / scales[axis]) - size[axis] // 2),
                    image_size[axis] - size[axis],
                )
                for end in (box[axis], box[axis] + box[2 + axis])
            )
            starts.append(low + int((high - low) * centre[axis]))
        crop = (*starts, *size)
        share = _sum_within(mask, crop, scales) / whole
        if share >= enough:
            return crop
        if share > kept:
            best, kept = crop, share
    return best


def _sum_within(mask: np.ndarray, crop: Box, scales: Sequence[float]) -> int:
    rows, columns = (
        slice(round(crop[axis] * scales[axis]), round((crop[axis] + crop[2 + axis]) * scales[axis]))
        for axis in (0, 1)
    )
    return int(mask[rows, columns].sum())
