"""The recipes' views: the augmentations, their order, and how their random parameters are drawn.

Every switch can be turned by itself, so that the rows of the DiLo paper's Table 1 (centre crop, +
flip, + spatial crop, + scale crop, + colour jitter, + random gray) are `table1(row)`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from data.errors import UserError

BLEND_SIGMA_MOST = 1000.0  # pixels; wider blurs of a mask's border cannot be meant
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

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
JITTER_ORDERS = np.array(
    [
        (a, b, c, 6 - a - b - c)
        for a in range(4)
        for b in range(4)
        for c in range(4)
        if len({a, b, c}) == 3
    ],
    dtype=np.int64,
)

# One view takes exactly this many uniform numbers, each with a place of its own. So turning a
# switch of the recipe changes no other draw: a view's crop stays put whatever else is set.
_ATTEMPTS = 10  # torchvision's RandomResizedCrop gives up after ten
_AREA = slice(0, _ATTEMPTS)
_RATIO = slice(_ATTEMPTS, 2 * _ATTEMPTS)
_TOP, _LEFT, _FLIP, _GRAY, _JITTER, _BRIGHTNESS, _CONTRAST, _SATURATION, _HUE, _ORDER = range(
    20, 30
)
_BLUR, _BLUR_SIGMA, _PASTE, _BLEND, _BACKGROUND, _OFFSET_Y, _OFFSET_X = range(30, 37)
UNIFORMS = 40  # three to spare: adding a draw later must not move the others


@dataclass(frozen=True)
class ViewRecipe:
    """How views are made of an image.

    Order: crop, then gray and colour jitter (`gray_first` says which comes first), blur, flip,
    normalise. Copy-paste comes before all of them.

    Parameters
    ----------
    views : views of each image, 1 (instance discrimination) or 2 (MoCo); any number >= 1.
    image_size : side of a view in pixels.
    crop : "scale" is torchvision's RandomResizedCrop(scale, ratio); "spatial" a square of 224/256
        of the shorter side at a random place (Resize(256), RandomCrop(224)); "center" the same
        square in the middle.
    scale, ratio : share of the area and aspect ratio of the "scale" crop.
    flip, gray, jitter, blur : probability of the horizontal flip, of graying, of the colour
        jitter and of the Gaussian blur.
    brightness, contrast, saturation, hue : strengths of the jitter, as torchvision's ColorJitter.
    blur_sigma : range of the blur's sigma, pixels of the view (uniform).
    gray_first : graying before the jitter (InstDisc, MoCo v1) or after it (MoCo v2).
    mean, std : normalisation of channels in [0, 1].
    """

    views: int = 1
    image_size: int = 224
    crop: Literal["scale", "spatial", "center"] = "scale"
    scale: tuple[float, float] = (0.2, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip: float = 0.5
    gray: float = 0.2
    jitter: float = 1.0
    brightness: float = 0.4
    contrast: float = 0.4
    saturation: float = 0.4
    hue: float = 0.4
    blur: float = 0.0
    blur_sigma: tuple[float, float] = (0.1, 2.0)
    gray_first: bool = True
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD

    def __post_init__(self) -> None:
        """Refuse what cannot be meant (UserError)."""
        if self.views < 1 or self.image_size < 1:
            name = "views" if self.views < 1 else "image_size"
            raise UserError(f"{name} is {getattr(self, name)}; give 1 or more.")
        _check_choice("crop", self.crop, ("scale", "spatial", "center"))
        for name in ("flip", "gray", "jitter", "blur"):
            _check_probability(name, getattr(self, name))
        for name in ("brightness", "contrast", "saturation"):
            if not getattr(self, name) >= 0:
                raise UserError(f"{name} is {getattr(self, name)}; give 0 or more.")
        if not 0 <= self.hue <= 0.5:
            raise UserError(f"hue is {self.hue}; give a part of a full turn, from 0 to 0.5.")
        for name, most in (("scale", 1.0), ("ratio", math.inf), ("blur_sigma", math.inf)):
            low, high = getattr(self, name)
            if not 0 < low <= high <= most:
                limit = f" and at most {most:g}" if most < math.inf else ""
                raise UserError(
                    f"{name} is ({low}, {high}); "
                    f"give two positive numbers, the smaller one first{limit}."
                )


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise UserError(f"{name} is {value!r}; choose one of {', '.join(choices)}.")


def _check_probability(name: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise UserError(f"{name} is {value}; give a probability, from 0 to 1.")


def instdisc(image_size: int = 224) -> ViewRecipe:
    """InstDisc (zhirongw/lemniscate): crop .2-1, gray .2, jitter .4/.4/.4/.4 always, flip."""
    return ViewRecipe(views=1, image_size=image_size)


def moco_v1(image_size: int = 224) -> ViewRecipe:
    """MoCo v1: two views of InstDisc's recipe."""
    return ViewRecipe(views=2, image_size=image_size)


def moco_v2(image_size: int = 224) -> ViewRecipe:
    """MoCo v2: crop .2-1, jitter .4/.4/.4/.1 p .8, gray .2, blur sigma .1-2 p .5, flip."""
    return ViewRecipe(
        views=2, image_size=image_size, jitter=0.8, hue=0.1, blur=0.5, gray_first=False
    )


TABLE1 = ("center_crop", "flip", "spatial_crop", "scale_crop", "jitter", "gray")


def table1(row: str, image_size: int = 224) -> ViewRecipe:
    """DiLo's Table 1: each row adds one augmentation to those before; the last is InstDisc."""
    rows = TABLE1.index(row)
    recipe = replace(instdisc(image_size), crop="center", flip=0.0, jitter=0.0, gray=0.0)
    steps = (
        {},
        {"flip": 0.5},
        {"crop": "spatial"},
        {"crop": "scale"},
        {"jitter": 1.0},
        {"gray": 0.2},
    )
    for step in steps[: rows + 1]:
        recipe = replace(recipe, **step)
    return recipe


@dataclass(frozen=True)
class PasteSettings:
    """Copy-paste augmentation (DiLo, 5.2) as the loader takes it.

    Parameters
    ----------
    probability : of pasting a view's foreground on another background; otherwise the original.
    background : "grayscale" one random level on all channels; "texture" a folder of images;
        "imagenet" a pool made by `mask-shards backgrounds`.
    pool : path of the texture folder or of the pool; None for grayscale.
    blend : "none" takes the mask as it is, "gaussian" blurs it, "mix" does either, evenly.
    sigma : of the blending's Gaussian, in pixels of the original image.
    """

    probability: float = 0.5
    background: Literal["grayscale", "texture", "imagenet"] = "grayscale"
    pool: str | None = None
    blend: Literal["none", "gaussian", "mix"] = "none"
    sigma: float = 5.0

    def __post_init__(self) -> None:
        """Refuse what cannot be meant (UserError)."""
        _check_probability("paste probability", self.probability)
        _check_choice("background", self.background, ("grayscale", "texture", "imagenet"))
        _check_choice("blend", self.blend, ("none", "gaussian", "mix"))
        if self.background != "grayscale" and self.pool is None:
            what = (
                "a folder of textures"
                if self.background == "texture"
                else "a pool made by `mask-shards backgrounds`"
            )
            raise UserError(
                f"the background {self.background!r} needs {what}; name it as its pool."
            )
        if not 0 < self.sigma <= BLEND_SIGMA_MOST:
            raise UserError(
                f"sigma is {self.sigma}; give a positive number up to {BLEND_SIGMA_MOST:g}, or the "
                "blend 'none'."
            )


@dataclass(frozen=True)
class Draw:
    """Everything random about one view.

    parameters : float32 (len(PARAMETERS),), what the device needs.
    box : (top, left, height, width), pixels of the whole image.
    paste, blur_mask : whether to paste, and whether to blur the mask's border.
    background, offset : uniform numbers in [0, 1): which background, and where (y, x) it is cut.
    """

    parameters: np.ndarray
    box: tuple[int, int, int, int]
    paste: bool
    blur_mask: bool
    background: float
    offset: tuple[float, float]


def uniforms(seed: int, epoch: int, index: int, view: int) -> np.ndarray:
    """Return the view's uniform numbers in [0, 1), float64 (UNIFORMS,), from these four alone.

    Philox is a counter-based generator: the seed is its key and (view, index, epoch) the high words
    of its counter, so every view has a stream of its own without any state between views.
    """
    philox = np.random.Philox(key=[seed, 0], counter=[0, view, index, epoch])
    return np.random.Generator(philox).random(UNIFORMS)


def draw_view(
    recipe: ViewRecipe,
    paste: PasteSettings | None,
    numbers: np.ndarray,
    image_size: tuple[int, int],
) -> Draw:
    """Turn a view's uniform numbers into its parameters.

    Parameters
    ----------
    numbers : float64 (UNIFORMS,) from `uniforms`.
    image_size : (height, width) of the whole image, pixels.
    """
    numbers = numbers.tolist()  # Python's floats: numpy's cost ten times as much one by one
    box = _box(recipe, numbers, image_size)
    pasted = paste is not None and numbers[_PASTE] < paste.probability
    blur_mask = paste is not None and (
        paste.blend == "gaussian" or (paste.blend == "mix" and numbers[_BLEND] < 0.5)
    )
    values = np.zeros(len(PARAMETERS), np.float32)
    values[:6] = (*image_size, *box)
    values[COLUMN["paste"]] = pasted
    values[COLUMN["level"]] = math.floor(255 * numbers[_BACKGROUND])  # [code] of the DiLo authors
    values[COLUMN["flip"]] = numbers[_FLIP] < recipe.flip
    values[COLUMN["gray"]] = numbers[_GRAY] < recipe.gray
    values[COLUMN["jitter"]] = numbers[_JITTER] < recipe.jitter
    for name, place in (
        ("brightness", _BRIGHTNESS),
        ("contrast", _CONTRAST),
        ("saturation", _SATURATION),
    ):
        strength = getattr(recipe, name)
        low = max(0.0, 1 - strength)
        values[COLUMN[name]] = low + (1 + strength - low) * numbers[place]
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
    )


def _box(
    recipe: ViewRecipe, numbers: list[float], image_size: tuple[int, int]
) -> tuple[int, int, int, int]:
    """Return (top, left, height, width) of the crop."""
    if recipe.crop == "scale":
        height, width = _scale_crop(recipe, numbers, image_size)
        if height == 0:  # no attempt fitted: torchvision's fallback is a centred crop
            return _central_crop(recipe, image_size)
    else:
        height = width = max(1, round(min(image_size) * 224 / 256))
    if recipe.crop == "center":
        return (image_size[0] - height) // 2, (image_size[1] - width) // 2, height, width
    top = math.floor((image_size[0] - height + 1) * numbers[_TOP])
    left = math.floor((image_size[1] - width + 1) * numbers[_LEFT])
    return top, left, height, width


def _scale_crop(
    recipe: ViewRecipe, numbers: list[float], image_size: tuple[int, int]
) -> tuple[int, int]:
    """Return (height, width) as RandomResizedCrop chooses them; (0, 0) if none fits."""
    smallest, largest = recipe.scale
    low, high = math.log(recipe.ratio[0]), math.log(recipe.ratio[1])
    for share, skew in zip(numbers[_AREA], numbers[_RATIO], strict=True):
        area = image_size[0] * image_size[1] * (smallest + (largest - smallest) * share)
        ratio = math.exp(low + (high - low) * skew)
        width, height = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < width <= image_size[1] and 0 < height <= image_size[0]:
            return height, width
    return 0, 0


def _central_crop(recipe: ViewRecipe, image_size: tuple[int, int]) -> tuple[int, int, int, int]:
    """Return the largest centred box whose aspect ratio is allowed."""
    height, width = image_size
    if width / height < recipe.ratio[0]:
        height = min(height, round(width / recipe.ratio[0]))
    elif width / height > recipe.ratio[1]:
        width = min(width, round(height * recipe.ratio[1]))
    return (image_size[0] - height) // 2, (image_size[1] - width) // 2, height, width
