"""What views are made of: the published recipes of augmentations, and copy-paste.

Every switch can be turned by itself, as the rows of the DiLo paper's Table 1 do (centre crop, +
flip, + spatial crop, + scale crop, + colour jitter, + random gray).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from data.backgrounds import check_background
from data.errors import UserError
from data.images import IMAGENET_MEAN, IMAGENET_STD

BLEND_SIGMA_MOST = 1000.0  # pixels; no blur needs to be wider


@dataclass(frozen=True)
class ViewRecipe:
    """How views are made of an image.

    Order: crop, then gray and colour jitter (`gray_first` says which comes first), blur, flip,
    normalise. Copy-paste comes before all of them.

    views : views of each image, 1 (instance discrimination) or 2 (MoCo); any number >= 1.
    image_size : side of a view in pixels.
    crop : "scale" is torchvision's RandomResizedCrop(scale, ratio); "spatial" a square of 224/256
        of the shorter side at a random position (Resize(256), RandomCrop(224)); "center" the same
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
        """Refuse invalid values (UserError)."""
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
        for name, most in (("scale", 1.0), ("ratio", math.inf), ("blur_sigma", BLEND_SIGMA_MOST)):
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
    """InstDisc (zhirongw/lemniscate): crop .2-1, gray .2, jitter .4/.4/.4/.4 always, flip.

    MoCo v1 takes two such views.
    """
    return ViewRecipe(views=1, image_size=image_size)


def moco_v2(image_size: int = 224) -> ViewRecipe:
    """MoCo v2: crop .2-1, jitter .4/.4/.4/.1 p .8, gray .2, blur sigma .1-2 p .5, flip."""
    return ViewRecipe(
        views=2, image_size=image_size, jitter=0.8, hue=0.1, blur=0.5, gray_first=False
    )


RECIPES = {"instdisc": instdisc, "moco-v2": moco_v2}
"""Published augmentations by name; the first one is also MoCo v1's."""

SWITCHES = (
    "crop", "scale", "flip", "gray", "jitter", "brightness", "contrast", "saturation", "hue",
    "blur", "blur_sigma", "gray_first",
)  # fmt: skip
"""What can be set of a recipe by itself."""


@dataclass(frozen=True)
class PasteSettings:
    """Copy-paste augmentation (DiLo, 5.2) as the loader takes it.

    probability : of pasting a view's foreground on another background; otherwise the original.
    background : a name in `data.backgrounds.BACKGROUNDS`.
    pool : what that source is opened with, such as a folder; None where it takes nothing.
    blend : "none" takes the mask as it is, "gaussian" blurs it, "mix" does either, evenly.
    sigma : of the blending's Gaussian, in pixels of the original image.
    """

    probability: float = 0.5
    background: str = "grayscale"
    pool: str | None = None
    blend: Literal["none", "gaussian", "mix"] = "none"
    sigma: float = 5.0

    def __post_init__(self) -> None:
        """Refuse invalid values (UserError)."""
        _check_probability("paste probability", self.probability)
        check_background(self.background, self.pool)
        _check_choice("blend", self.blend, ("none", "gaussian", "mix"))
        if not 0 < self.sigma <= BLEND_SIGMA_MOST:
            raise UserError(
                f"sigma is {self.sigma}; give a positive number up to {BLEND_SIGMA_MOST:g}, or the "
                "blend 'none'."
            )


def blurs(blend: str, uniform: float) -> bool:
    """Return whether a mask is blurred, by a uniform number in [0, 1)."""
    return blend == "gaussian" or (blend == "mix" and uniform < 0.5)
