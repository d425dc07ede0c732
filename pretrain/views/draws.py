"""How a view's random parameters are drawn: all that is random about it, from four numbers."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import permutations

import numpy as np
from scipy.special import betaincinv

from data.backgrounds import BACKGROUNDS
from data.backgrounds.partner import tight_box
from data.images.crop import Box
from pretrain.views.recipes import PasteSettings, ViewRecipe, blurs

# Columns of a view's float32 parameter vector, in the order in which a batch carries them.
PARAMETERS = (
    "image_height",  # the whole image, pixels
    "image_width",
    "box_top",  # the crop, pixels of the whole image
    "box_left",
    "box_height",
    "box_width",
    "paste",  # 1 when this view has a foreground pasted on another background
    "level",  # gray level of a grayscale background, 0..255
    "flip",  # 0 or 1
    "gray",  # 0 or 1
    "jitter",  # 0 or 1
    "brightness",  # factors as torchvision.transforms.v2.functional.adjust_* take them
    "contrast",
    "saturation",
    "hue",
    "order",  # 0..23: row of JITTER_ORDERS
    "blur",  # sigma in output pixels, 0 for none
)
COLUMN = {name: number for number, name in enumerate(PARAMETERS)}

# All orders of (0 brightness, 1 contrast, 2 saturation, 3 hue); ColorJitter draws one of them.
JITTER_ORDERS = np.array(list(permutations(range(4))))

# One view takes exactly this many uniform numbers, each with an index of its own. So turning a
# switch of the recipe changes no other draw: a view's crop stays put whatever else is set.
_ATTEMPTS = 10  # torchvision's RandomResizedCrop gives up after ten
_AREA = slice(0, _ATTEMPTS)
_RATIO = slice(_ATTEMPTS, 2 * _ATTEMPTS)
_TOP, _LEFT, _FLIP, _GRAY, _JITTER, _BRIGHTNESS, _CONTRAST, _SATURATION, _HUE, _ORDER = range(
    20, 30
)
_BLUR, _BLUR_SIGMA, _PASTE, _BLEND, _BACKGROUND, _OFFSET_Y, _OFFSET_X = range(30, 37)
UNIFORMS = 40  # three to spare: adding a draw later must not move the others

# What came later is drawn from another stream of the seed; 0 is the one above, 1 the order's, 2 the
# replacements'.
_LATER_STREAM = 3
_PARTNER = 0
_FRAME = slice(1, 5)  # height, width, top, left
_CENTRE = slice(5, 5 + 2 * _ATTEMPTS)  # of each attempt at an object crop
LATER_UNIFORMS = 64


@dataclass(frozen=True)
class Draw:
    """Everything random about one view.

    parameters : float32 (len(PARAMETERS),), what the device needs.
    box : (top, left, height, width), pixels of the whole image.
    paste, blur_mask : whether to paste, and whether to blur the mask's border.
    background, offset : uniform numbers in [0, 1): which background, and where (y, x) it is cut.
    partner : such a number: which other image of the data set.
    frame : four, of the place of a cut-out (`swaps.random_frame`); None: it stays in place.
    cut : the object's box, like `box`, where that is cut out and moved.
    rectangle : the cut-out is all of its box, not what the mask shows of it.
    """

    parameters: np.ndarray
    box: tuple[int, int, int, int]
    paste: bool
    blur_mask: bool
    background: float
    offset: tuple[float, float]
    partner: float = 0.0
    frame: np.ndarray | None = None
    cut: tuple[int, int, int, int] | None = None
    rectangle: bool = False


def uniforms(seed: int, epoch: int, index: int, view: int) -> np.ndarray:
    """Return the view's uniform numbers in [0, 1), float64 (UNIFORMS,), from these four alone.

    Philox is a counter-based generator: the seed is its key and (view, index, epoch) the high words
    of its counter, so every view has a stream of its own without any state between views.
    """
    philox = np.random.Philox(key=[seed, 0], counter=[0, view, index, epoch])
    return np.random.Generator(philox).random(UNIFORMS)


def later_uniforms(seed: int, epoch: int, index: int, view: int) -> np.ndarray:
    """Return more such numbers, float64 (LATER_UNIFORMS,), from a stream of their own.

    Of partners, of the place of cut-outs, of object crops: none of them moves the numbers above.
    """
    philox = np.random.Philox(key=[seed, _LATER_STREAM], counter=[0, view, index, epoch])
    return np.random.Generator(philox).random(LATER_UNIFORMS)


def draw_view(
    recipe: ViewRecipe,
    paste: PasteSettings | None,
    numbers: np.ndarray,
    image_size: tuple[int, int],
    later: np.ndarray | None = None,
    mask: np.ndarray | None = None,
) -> Draw:
    """Turn a view's uniform numbers into its parameters.

    numbers : float64 (UNIFORMS,) from `uniforms`.
    image_size : (height, width) of the whole image, pixels.
    later : float64 (LATER_UNIFORMS,) from `later_uniforms`, where `needs_later` says so.
    mask : uint8 (h, w), the image's; object crops follow it, and without one are scale crops.
    """
    numbers = numbers.tolist()  # Python's floats: numpy's cost ten times as much one by one
    box = None
    if recipe.crop == "object" and mask is not None:
        centres = later[_CENTRE].reshape(_ATTEMPTS, 2)
        sizes = list(_sizes(recipe, numbers, image_size))
        box = object_crop(sizes, centres, mask, image_size, recipe.crop_keeps, recipe.scale[0])
    if box is None:
        box = _box(recipe, numbers, image_size)
    pasted = paste is not None and numbers[_PASTE] < paste.paste_probability
    blur_mask = paste is not None and blurs(paste.blend, numbers[_BLEND])
    values = np.zeros(len(PARAMETERS), np.float32)
    values[:6] = (*image_size, *box)
    values[COLUMN["paste"]] = pasted
    values[COLUMN["level"]] = math.floor(255 * numbers[_BACKGROUND])  # [code] of the DiLo authors
    values[COLUMN["flip"]] = numbers[_FLIP] < recipe.flip
    values[COLUMN["gray"]] = numbers[_GRAY] < recipe.gray
    values[COLUMN["jitter"]] = numbers[_JITTER] < recipe.jitter
    for name, number in (
        ("brightness", _BRIGHTNESS),
        ("contrast", _CONTRAST),
        ("saturation", _SATURATION),
    ):
        strength = getattr(recipe, name)
        low = max(0.0, 1 - strength)
        values[COLUMN[name]] = low + (1 + strength - low) * numbers[number]
    values[COLUMN["hue"]] = recipe.hue * (2 * numbers[_HUE] - 1)
    values[COLUMN["order"]] = math.floor(len(JITTER_ORDERS) * numbers[_ORDER])
    if numbers[_BLUR] < recipe.blur:
        low, high = recipe.blur_sigma
        values[COLUMN["blur"]] = low + (high - low) * numbers[_BLUR_SIGMA]
    return Draw(
        parameters=values,
        box=box,
        paste=pasted,
        blur_mask=blur_mask,
        background=numbers[_BACKGROUND],
        offset=(numbers[_OFFSET_Y], numbers[_OFFSET_X]),
        partner=0.0 if later is None else float(later[_PARTNER]),
        frame=later[_FRAME] if paste is not None and paste.placement == "frame" else None,
    )


def needs_later(recipe: ViewRecipe, paste: PasteSettings | None) -> bool:
    """Return whether `draw_view` takes numbers of the later stream with these settings."""
    return recipe.crop == "object" or (
        paste is not None
        and (paste.placement == "frame" or BACKGROUNDS[paste.background].partner is not None)
    )


def _box(
    recipe: ViewRecipe, numbers: list[float], image_size: tuple[int, int]
) -> tuple[int, int, int, int]:
    """Return (top, left, height, width) of the crop."""
    if recipe.crop in ("scale", "object"):
        size = next(_sizes(recipe, numbers, image_size), None)
        if size is None:  # no attempt fitted: torchvision's fallback is a centred crop
            return _central_crop(recipe, image_size)
        height, width = size
    else:
        height = width = max(1, round(min(image_size) * 224 / 256))
    if recipe.crop == "center":
        return (image_size[0] - height) // 2, (image_size[1] - width) // 2, height, width
    top = math.floor((image_size[0] - height + 1) * numbers[_TOP])
    left = math.floor((image_size[1] - width + 1) * numbers[_LEFT])
    return top, left, height, width


def _sizes(
    recipe: ViewRecipe, numbers: list[float], image_size: tuple[int, int]
) -> Iterator[tuple[int, int]]:
    """Yield (height, width) of the attempts that fit; RandomResizedCrop takes the first."""
    smallest, largest = recipe.scale
    low, high = math.log(recipe.ratio[0]), math.log(recipe.ratio[1])
    for share, skew in zip(numbers[_AREA], numbers[_RATIO], strict=True):
        area = image_size[0] * image_size[1] * (smallest + (largest - smallest) * share)
        ratio = math.exp(low + (high - low) * skew)
        width, height = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < width <= image_size[1] and 0 < height <= image_size[0]:
            yield height, width


def _central_crop(recipe: ViewRecipe, image_size: tuple[int, int]) -> tuple[int, int, int, int]:
    """Return the largest centred box whose aspect ratio is allowed."""
    height, width = image_size
    if width / height < recipe.ratio[0]:
        height = min(height, round(width / recipe.ratio[0]))
    elif width / height > recipe.ratio[1]:
        width = min(width, round(height * recipe.ratio[1]))
    return (image_size[0] - height) // 2, (image_size[1] - width) // 2, height, width


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

    Its centre lies in the mask's box, drawn by a Beta distribution whose shape, a U, prefers the
    box's borders, so that two views differ (ContrastiveCrop, Peng et al., CVPR 2022: Beta(.6, .6)).
    It must keep a share of the mask (CAST, Selvaraju et al., CVPR 2021: .2 in ten attempts; less
    where the mask is larger than the smallest crop).

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
