"""What views are made of: the published recipes of augmentations, and copy-paste.

Every switch can be turned by itself, as the rows of the DiLo paper's Table 1 do (centre crop, +
flip, + spatial crop, + scale crop, + colour jitter, + random gray).
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from data.backgrounds import BACKGROUNDS, check_background
from data.images import IMAGENET_MEAN, IMAGENET_STD
from data.options import Count, Record, Share, one_of, setting

SIGMA_MOST = 1000.0  # pixels; no blur needs to be wider

Strength = Annotated[float, Field(ge=0)]


class Switches(Record):
    """What can be set of a recipe by itself."""

    crop: Literal["scale", "spatial", "center", "object"] = setting(
        "scale",
        "kind of crop: scale (RandomResizedCrop), spatial (a square of 224/256 of the shorter side "
        "anywhere, as Resize(256), RandomCrop(224)), center (that square in the middle) or object "
        "(a scale crop about the mask; needs masks)",
    )
    crop_keeps: Share = setting(
        0.2, "least share of the mask that an object crop keeps, in ten attempts (CAST)"
    )
    scale: tuple[float, float] = setting((0.2, 1.0), "range of the scale crop's share of the area")
    flip: Share = setting(0.5, "probability of a horizontal flip")
    gray: Share = setting(0.2, "probability of graying")
    jitter: Share = setting(1.0, "probability of colour jitter, torchvision's ColorJitter")
    brightness: Strength = setting(0.4, "strength of the jitter in brightness")
    contrast: Strength = setting(0.4, "strength of the jitter in contrast")
    saturation: Strength = setting(0.4, "strength of the jitter in saturation")
    hue: Annotated[float, Field(ge=0, le=0.5)] = setting(
        0.4, "strength of the jitter in hue, a part of a full turn"
    )
    blur: Share = setting(0.0, "probability of Gaussian blur")
    blur_sigma: tuple[float, float] = setting((0.1, 2.0), "range of its sigma, view's pixels")
    gray_first: bool = setting(True, "graying before the jitter, not after it (as MoCo v2)")

    @model_validator(mode="after")
    def _ranges(self) -> Switches:
        for name, most in (("scale", 1.0), ("blur_sigma", SIGMA_MOST)):
            low, high = getattr(self, name)
            if not 0 < low <= high <= most:
                raise ValueError(
                    f"{name} is ({low}, {high}); give two positive numbers, the smaller one first "
                    f"and at most {most:g}"
                )
        return self


class ViewRecipe(Switches):
    """How views are made of an image.

    Order: crop, then gray and colour jitter (`gray_first` says which comes first), blur, flip,
    normalise. Copy-paste comes before all of them.
    """

    views: Count = setting(1, "views of each image")
    image_size: Count = setting(224, "side of a view in pixels")
    ratio: tuple[float, float] = setting((3 / 4, 4 / 3), "aspect ratio of the scale crop")
    mean: tuple[float, float, float] = setting(IMAGENET_MEAN, "of channels in [0, 1]")
    std: tuple[float, float, float] = setting(IMAGENET_STD, "of channels in [0, 1]")


def instdisc(image_size: int = 224) -> ViewRecipe:
    """InstDisc (zhirongw/lemniscate): crop .2-1, gray .2, jitter .4/.4/.4/.4 always, flip.

    MoCo v1 takes two such views.
    """
    return ViewRecipe(image_size=image_size)


def moco_v2(image_size: int = 224) -> ViewRecipe:
    """MoCo v2: crop .2-1, jitter .4/.4/.4/.1 p .8, gray .2, blur sigma .1-2 p .5, flip."""
    return ViewRecipe(
        views=2, image_size=image_size, jitter=0.8, hue=0.1, blur=0.5, gray_first=False
    )


def plain(image_size: int = 224) -> ViewRecipe:
    """Crop .08-1 and flip alone: rotation's (MMSelfSup), and networks' with labels."""
    return ViewRecipe(image_size=image_size, scale=(0.08, 1.0), jitter=0.0, gray=0.0)


RECIPES = {"instdisc": instdisc, "moco-v2": moco_v2, "plain": plain}
"""Published augmentations by name; the first one is also MoCo v1's."""


class PasteSettings(Record):
    """Copy-paste augmentation (DiLo, 5.2)."""

    paste_probability: Share = setting(
        0.5, "probability of pasting a view's foreground; 0 needs no masks", heading="Copy-paste"
    )
    background: Annotated[str, one_of(BACKGROUNDS)] = setting(
        "grayscale", "what foregrounds are pasted on; given a pool, what that is of",
        heading="Copy-paste",
    )  # fmt: skip
    background_pool: str | None = setting(
        None, "folder of textures, or pool made by `mask-shards backgrounds`",
        heading="Copy-paste", metavar="PATH",
    )  # fmt: skip
    blend: Literal["none", "gaussian", "mix"] = setting(
        "none",
        "blending of the mask's border: none takes it as it is, gaussian blurs it, mix does "
        "either, evenly",
        heading="Copy-paste",
    )
    blend_sigma: Annotated[float, Field(gt=0, le=SIGMA_MOST)] = setting(
        5.0, "sigma of that Gaussian, pixels of the original image"
    )
    paste_coverage: tuple[Share, Share] = setting(
        (0.0, 1.0), "range of a mask's mean in [0, 1]; images of other masks stay unpasted"
    )
    paste_views: Literal["all", "first"] = setting(
        "all", "which views of an image are pasted with that probability"
    )
    placement: Literal["same", "frame"] = setting(
        "same",
        "where a foreground is pasted: same (where it was, as large) or frame (its box anywhere in "
        "the view, half as large as the view or more, as InstanceLoc)",
    )
    cutout: Literal["mask", "rectangle"] = setting(
        "mask",
        "what is pasted in a frame: mask (the object; the rectangle where there is none) or "
        "rectangle (the whole crop, which needs no masks; InstanceLoc)",
    )

    @model_validator(mode="after")
    def _fit_together(self) -> PasteSettings:
        if self.paste_probability == 0:
            return self
        check_background(self.background, self.background_pool)
        low, high = self.paste_coverage
        if low > high:
            raise ValueError(
                f"paste_coverage is {[low, high]}; the smaller comes first, as 0.05,0.9"
            )
        if self.placement == "frame" and BACKGROUNDS[self.background].partner == "over":
            raise ValueError(
                f"placement is 'frame' and background is {self.background!r}, which has a place "
                "for the object; set placement to 'same'"
            )
        if self.cutout == "rectangle" and self.placement != "frame":
            raise ValueError(
                "cutout is 'rectangle', which in its own position would hide the whole background; "
                "set placement to 'frame'"
            )
        return self

    @property
    def needs_masks(self) -> bool:
        """Whether it looks at masks."""
        looks = self.cutout == "mask" or BACKGROUNDS[self.background].partner is not None
        return self.paste_probability > 0 and looks


def blurs(blend: str, uniform: float) -> bool:
    """Return whether a mask is blurred, by a uniform number in [0, 1)."""
    return blend == "gaussian" or (blend == "mix" and uniform < 0.5)
