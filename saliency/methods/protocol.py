"""What a saliency method offers, and the settings that methods of a kind share.

This module loads neither torch nor numba, nor may a module that holds a method's settings.
"""

from __future__ import annotations

import pkgutil
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple, Protocol

from pydantic import AfterValidator, Field

from data.errors import UserError
from data.images import IMAGENET_MEAN, IMAGENET_STD
from data.options import Count, Record, one_of, setting

if TYPE_CHECKING:
    import numpy as np
    import torch

    from data.keys import Keys
    from saliency.maps import Context

_FINEST = 16.0  # pixels of the smallest superpixel that `auto` asks for
_pixel_setting = partial(setting, heading="Methods per pixel")
network_setting = partial(setting, heading="Methods by a network")


class Method(NamedTuple):
    """A line of the registry.

    module : name of the module that offers `compute` (`PixelMethod`) or `build` (`NetworkBuilder`).
    summary : what the method does, for `--help` and the documentation.
    settings : its record, "module:class"; of a network, derived from `NetworkSettings`.
    """

    module: str
    summary: str
    settings: str = "saliency.methods.protocol:PixelSettings"

    @property
    def record(self) -> type[PixelSettings] | type[NetworkSettings]:
        return pkgutil.resolve_name(self.settings)

    @property
    def by_network(self) -> bool:
        return issubclass(self.record, NetworkSettings)

    def load(self) -> Any:
        """Import the method's module."""
        return pkgutil.resolve_name(self.module)


# ---- per pixel, on CPUs --------------------------------------------------------------------------


class PixelMethod(Protocol):
    """What the module of a method per pixel offers."""

    def compute(self, context: Context, settings: PixelSettings) -> np.ndarray:
        """Return the map of `context.image`: float (H, W) in [0, 1].

        The image has at least two colours. Superpixels that `context` holds are shared with the
        other methods of the run.
        """


def superpixel_count(text: str, area: int) -> tuple[int, float]:
    """Return how many superpixels to ask for in an image, and how many pixels in a superpixel.

    text : "authors": 250 an image (MC), 600 pixels each (RBD, GS). "auto": the same, but for the
        latter at least 200 and at most 600 an image: the authors' choice was made for photographs
        of some 400 x 300 pixels, is too coarse for a thumbnail, and beyond, time grows with the
        number's square and cube. "250": an image. "600px": pixels each.
    area : pixels of the image.
    """
    if text == "authors":
        return 250, 600.0
    if text == "auto":
        return 250, min(max(600.0, area / 600), max(_FINEST, area / 200))
    if text.endswith("px"):
        pixels = float(text[:-2])
        return max(1, round(area / pixels)), pixels
    return int(text), area / int(text)


def _superpixels(text: str) -> str:
    if not re.fullmatch(r"auto|authors|0*[1-9]\d{0,8}(|px|\.\d*px)", text):
        raise ValueError("give a number (250), pixels each (600px), auto or authors")
    return text


class PixelSettings(Record):
    """What all methods per pixel share; a method's own record derives from it."""

    superpixels: Annotated[str, AfterValidator(_superpixels)] = _pixel_setting(
        "auto",
        "superpixels an image (250), or pixels a superpixel (600px). 'authors': as each method's "
        "authors have it, 600px or 250; 'auto': the same, but of the former 200 to 600 an image",
        metavar="N|Npx|auto|authors",
    )
    remove_frame: bool = _pixel_setting(False, "give artificial picture frames saliency 0")
    follow_edges: bool = _pixel_setting(
        False,
        "refine masks by a guided filter: higher max F, higher mean error (docs/saliency.md)",
    )


# ---- by a network, on a device -------------------------------------------------------------------


class NetworkMethod(Protocol):
    """A network on its device, as the batch stage uses it (`saliency.device_stage`).

    device : where it computes.
    batch_size : the largest batch.
    decode_side : cap of the decoded image's long side in pixels; 0 for the image as it is.
    parameters : what shapes a mask, JSON-able, to be recorded in each shard.
    prepare : uint8 RGB (h, w, 3) to float32 (3, S, S); picklable, it runs in worker processes.
    """

    device: torch.device
    batch_size: int
    decode_side: int
    parameters: dict[str, Any]
    prepare: Callable[[np.ndarray], np.ndarray]

    def compute(self, batch: torch.Tensor, keys: list[str]) -> torch.Tensor:
        """Return the results (N, h, w), floating, of prepared images (N, 3, S, S) on the device."""

    def finish(self, result: np.ndarray, prepared: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        """Return the map of `size` in [0, 1] of one image's result, float32 (h, w)."""


class NetworkBuilder(Protocol):
    """What the module of a method by a network offers."""

    def build(self, settings: NetworkSettings, keys: Keys) -> NetworkMethod:
        """Load the network.

        keys : all images below the root, whose folders may be classes.

        Raises UserError: missing or foreign weights, no such device, too little memory.
        """


class NetworkSettings(Record):
    """What all methods by a network share; a method's own record derives from it."""

    weights: Path | None = network_setting(
        None,
        "checkpoint of the network, as published or trained here; an ONNX file or an exported "
        "archive; of a classifier, with torchvision's names and a linear head",
    )
    device: str = network_setting("auto", "where to compute: auto, cpu, cuda, cuda:1 or mps")
    batch_size: Count | None = network_setting(
        None,
        "images the device computes at a time",
        shown_default="64, on a CPU 8; of ONNX files and archives fewer, the larger their input",
    )
    precision: Literal["auto", "float32", "bf16", "fp16"] = network_setting(
        "auto",
        "of the network's arithmetic; auto: bf16 on a GPU that has it, float32 on a CPU",
    )
    input_size: Annotated[int, Field(ge=32)] | None = network_setting(
        None,
        "side of the square that the network sees, in pixels",
        shown_default="the network's own, 224 of a classifier",
    )

    def arithmetic(self, name: str) -> tuple[torch.device, torch.dtype | None, int]:
        """Return device, autocast's type and batch size on this machine, of the method `name`.

        Raises UserError: no weights, no such device.
        """
        from data.device import default_batch_size, pick_device, pick_precision

        if self.weights is None:
            raise UserError(f"--method {name} needs --weights, a checkpoint of its network.")
        device = pick_device(self.device)
        precision = pick_precision(self.precision, device)
        return device, precision, self.batch_size or default_batch_size(device)

    def recorded(self, precision: torch.dtype | None) -> dict[str, Any]:
        """Return what shards by any network record: the arithmetic, and the weights' digest."""
        from data.weights import sha256_of

        name = str(precision or "torch.float32").split(".")[-1]
        return {"precision": name, "weights_sha256": sha256_of(self.weights)}


class ClassifierSettings(NetworkSettings):
    """Of methods that ask a classifier."""

    arch: str | None = network_setting(
        None,
        "the classifier's name in torchvision, such as resnet50",
        shown_default="the name that fits the weights",
    )
    labels: Literal["folder", "predicted"] | None = network_setting(
        None,
        "of the image's class, by its folder (sorted folders are the classes), or of the predicted "
        "class",
        shown_default="predicted",
    )


# ---- networks of other people --------------------------------------------------------------------

Output = Literal["stretched", "sigmoid", "sigmoid-stretched", "plain"]
Divisor = Literal["max", "255"]
Colour = tuple[float, float, float]
_HALF, _ONE = (0.5, 0.5, 0.5), (1.0, 1.0, 1.0)


class Normalisation(NamedTuple):
    """How a network sees an image: from pixels to a network's input and from its output to a map.

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


NORMALISATIONS = {  # as rembg (https://github.com/danielgatis/rembg) has the network of that name
    "u2net": Normalisation(IMAGENET_MEAN, IMAGENET_STD, "max", "stretched", 320),
    "silueta": Normalisation(IMAGENET_MEAN, IMAGENET_STD, "max", "stretched", 320),
    "isnet-general-use": Normalisation(_HALF, _ONE, "max", "stretched", 1024),
    "isnet-anime": Normalisation(IMAGENET_MEAN, _ONE, "max", "stretched", 1024),
    "birefnet": Normalisation(IMAGENET_MEAN, IMAGENET_STD, "max", "sigmoid-stretched", 1024),
    "bria-rmbg": Normalisation(IMAGENET_MEAN, IMAGENET_STD, "max", "stretched", 1024),
    "imagenet": Normalisation(IMAGENET_MEAN, IMAGENET_STD, "255", "plain"),
}


_NUMBER = r"\s*-?(\d+\.?\d*|\.\d+)(e-?\d)?\s*"


def _colour(text: str) -> str:
    if not re.fullmatch(f"{_NUMBER}(,{_NUMBER},{_NUMBER})?", text):
        raise ValueError("give a number, or three for red, green and blue, such as .5,.5,.5")
    return text


def _divisor(text: str) -> str:
    if min(_numbers(_colour(text))) <= 0:
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
