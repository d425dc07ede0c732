"""How networks of other people see an image, and what becomes of their output: a small table.

Each row is what rembg (https://github.com/danielgatis/rembg) does for the network of that name,
input side in pixels included; a file's own sizes go before it.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

from pydantic import AfterValidator

from data.errors import UserError
from data.images import IMAGENET_MEAN, IMAGENET_STD
from data.options import one_of
from saliency.methods.protocol import NetworkSettings, network_setting

Output = Literal["stretched", "sigmoid", "sigmoid-stretched", "plain"]
Divisor = Literal["max", "255"]
Colour = tuple[float, float, float]
_HALF, _ONE = (0.5, 0.5, 0.5), (1.0, 1.0, 1.0)


class Normalisation(NamedTuple):
    """From pixels to a network's input and from its output to a map.

    divide_by : "max", the image's largest value, or "255"; then `mean` is subtracted and the rest
        divided by `std`, red, green and blue.
    output : "plain" probabilities, logits that a "sigmoid" makes probabilities, or either
        "stretched" to [0, 1] an image.
    size : side of the square input; None where only the file can say.
    """

    mean: Colour
    std: Colour
    divide_by: Divisor
    output: Output
    size: int | None = None


NORMALISATIONS = {
    "u2net": Normalisation(IMAGENET_MEAN, IMAGENET_STD, "max", "stretched", 320),
    "silueta": Normalisation(IMAGENET_MEAN, IMAGENET_STD, "max", "stretched", 320),
    "isnet-general-use": Normalisation(_HALF, _ONE, "max", "stretched", 1024),
    "isnet-anime": Normalisation(IMAGENET_MEAN, _ONE, "max", "stretched", 1024),
    "birefnet": Normalisation(IMAGENET_MEAN, IMAGENET_STD, "max", "sigmoid-stretched", 1024),
    "bria-rmbg": Normalisation(IMAGENET_MEAN, IMAGENET_STD, "max", "stretched", 1024),
    "imagenet": Normalisation(IMAGENET_MEAN, IMAGENET_STD, "255", "plain"),
}


def _colour(text: str) -> str:
    try:
        values = [float(part) for part in text.split(",")]
    except ValueError:
        values = []
    if len(values) not in (1, 3) or not all(map(math.isfinite, values)):
        raise ValueError("give a number, or three for red, green and blue, such as .5,.5,.5")
    return text


def _divisor(text: str) -> str:
    if not all(float(part) > 0 for part in _colour(text).split(",")):
        raise ValueError("give numbers above 0")
    return text


class ForeignSettings(NetworkSettings):
    """Of methods that run a network of other people as it is."""

    normalisation: Annotated[str, one_of(NORMALISATIONS)] | None = network_setting(
        None,
        "as this network sees an image; the next four change a part of it",
        shown_default="the one that the name of the file begins with",
    )
    mean: Annotated[str, AfterValidator(_colour)] | None = network_setting(
        None, "subtracted from the pixels", metavar="R,G,B"
    )
    std: Annotated[str, AfterValidator(_divisor)] | None = network_setting(
        None, "by which the rest is divided", metavar="R,G,B"
    )
    divide_by: Divisor | None = network_setting(
        None, "pixels are first divided by the image's largest value, or by 255"
    )
    output: Output | None = network_setting(
        None,
        "what the network gives: plain probabilities, logits (sigmoid), or either, to be stretched "
        "to the whole range in each image",
    )

    def chosen(self) -> Normalisation:
        """Return the row of the table, with the parts that are given instead of its own.

        UserError: the file's name begins with none of the rows' and none is named.
        """
        stem = Path(self.weights).stem.lower()
        name = self.normalisation or next((n for n in NORMALISATIONS if stem.startswith(n)), None)
        if name is None:
            raise UserError(
                f"--weights {str(self.weights)!r}: no known network has such a name; say how it "
                f"sees images by --normalisation, one of {', '.join(NORMALISATIONS)}."
            )
        given = {
            part: _numbers(value) if part in ("mean", "std") else value
            for part in ("mean", "std", "divide_by", "output")
            if (value := getattr(self, part)) is not None
        }
        return NORMALISATIONS[name]._replace(**given)


def _numbers(text: str) -> Colour:
    values = [float(part) for part in text.split(",")]
    return tuple(values * 3 if len(values) == 1 else values)
