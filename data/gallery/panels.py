"""Pictures of a mask: beside its image, over grey, as thumbnails."""

import os
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from data.images.decode import UnreadableImage, decode, key_path
from data.masks.format import Status
from data.masks.read import MaskShards

GREY = 128
"""The level behind a foreground: what copy-paste's homogeneous backgrounds look like on average."""


@dataclass(frozen=True)
class Panel:
    """One method's mask of one image, ready to be shown.

    Attributes
    ----------
    mask : uint8 array, (h, w), or None
        As large as the image that is shown.
    foreground : uint8 array, (h, w, 3), or None
        The image over grey; None also where the image is not at hand.
    note : str
        How much of the image the mask covers, or why there is no mask.
    """

    mask: np.ndarray | None
    foreground: np.ndarray | None
    note: str


@dataclass(frozen=True)
class Row:
    """One image and what each set of shards has for it.

    Attributes
    ----------
    image : uint8 array, (h, w, 3), or None
    note : str
        The image's size, or why it cannot be shown.
    """

    key: str
    image: np.ndarray | None
    note: str
    panels: list[Panel]


def scale_mask(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Scale a mask to (height, width), bilinearly with half-pixel centres: uint8."""
    if mask.shape == tuple(size):
        return mask
    return cv2.resize(mask, (size[1], size[0]), interpolation=cv2.INTER_LINEAR)


def over_grey(image: np.ndarray, mask: np.ndarray, level: int = GREY) -> np.ndarray:
    """Return an image's foreground over grey, the mask as a soft alpha.

    Parameters
    ----------
    image : uint8 array, (h, w, 3)
    mask : uint8 array, (h, w)
    level
        The grey, 0..255.
    """
    alpha = mask[..., None].astype(np.float32) / 255
    return np.rint(image * alpha + level * (1 - alpha)).astype(np.uint8)


def make_row(
    key: str, sets: Sequence[MaskShards], images: str | os.PathLike | None, side: int
) -> Row:
    """Read one image, long side at most `side`, and its masks.

    Without an image folder, or where the image cannot be read, masks are shown alone.
    """
    image, note = None, "no image folder given"
    if images is not None:
        try:
            decoded = decode(key_path(images, key), side)
        except UnreadableImage as error:
            note = str(error)
        else:
            image = decoded.image
            note = f"{decoded.image_size[1]} x {decoded.image_size[0]}"
    return Row(key, image, note, [_panel(key, masks, image, side) for masks in sets])


def _panel(key: str, masks: MaskShards, image: np.ndarray | None, side: int) -> Panel:
    if key not in masks:
        return Panel(None, None, "not in these shards")
    row = masks.find(key)
    status = masks.status(row)
    if status not in (Status.OK, Status.FLAT):
        return Panel(None, None, f"{status.name.lower()}: {masks.error(row)}")
    mask = masks.read(row)
    covered = "nothing stands out" if status == Status.FLAT else f"covers {mask.mean() / 255:.0%}"
    if image is not None:
        mask = scale_mask(mask, image.shape[:2])
        return Panel(mask, over_grey(image, mask), covered)
    if max(mask.shape) > side:
        scale = side / max(mask.shape)
        width, height = (max(1, round(length * scale)) for length in mask.shape[::-1])
        mask = cv2.resize(mask, (width, height), interpolation=cv2.INTER_AREA)
    return Panel(mask, None, covered)


def headings(sets: Sequence[MaskShards]) -> list[str]:
    """Return a name for each set: its method; its folder too, where methods repeat."""
    methods = [masks.method for masks in sets]
    return [
        method if methods.count(method) == 1 else f"{method} ({masks.folder.name})"
        for method, masks in zip(methods, sets, strict=True)
    ]
