"""Pictures as masks, whatever way a tool stores them: gray, labels, a cut-out's transparency."""

import os

import cv2
import numpy as np
from PIL import Image

from data.images.decode import UnreadableImage, as_stored
from data.images.modes import to_rgb

MOST_LABELS = 32
"""Levels below this, with none between them and white, are numbers of labels and not grays."""
MOST_TINT = 48
"""How far apart a gray pixel's three bands may be: JPEG tints grays a little."""


def read_mask(path: str | os.PathLike) -> np.ndarray:
    """Read a mask of any image format as uint8 (h, w), 255 foreground.

    - Of a cut-out with transparency, the alpha is the mask, also where nothing or all was kept. A
      gray picture that is opaque everywhere is no cut-out.
    - Of a palette with colours, as VOC's labels have, black is background (where there is no
      black, index 0) and every other index is foreground, the border that VOC leaves out too.
    - Zeros and ones alone count as 0 and 255.
    - Anything else is gray; 16 bits are scaled to 8.

    Raises UnreadableImage: no picture; a photograph; numbers of labels without a palette.
    """
    with as_stored(path) as image:
        image.load()
        rgb = to_rgb(image)
        tint = int((rgb.max(2) - rgb.min(2)).max())
        if image.has_transparency_data:
            alpha = np.asarray(image.convert("RGBA").getchannel("A"))
            if alpha.min() < 255 or tint > MOST_TINT:
                return alpha
        if image.mode == "P" and (background := _background(image)) is not None:
            return np.where(np.asarray(image) == background, 0, 255).astype(np.uint8)
        # 16 bits would hardly leave anything of a one, and a single band's one may be rounded away
        values = np.asarray(image) if image.mode.startswith("I") else rgb
        if values.max() == 1 and values.min() >= 0:
            return np.where(values.reshape(*rgb.shape[:2], -1).any(2), 255, 0).astype(np.uint8)
        if tint > MOST_TINT:
            kinds = "gray, has a palette of labels, or is a cut-out with transparency"
            raise UnreadableImage(f"it is a picture in colours; a mask is {kinds}")
        mask = np.asarray(Image.fromarray(rgb).convert("L"))
        refuse_labels(mask)
        return mask


def refuse_labels(mask: np.ndarray) -> None:
    """Raise UnreadableImage where a uint8 mask's levels, such as 0 to 5 and 255, are labels'."""
    levels = np.flatnonzero(np.bincount(mask.ravel(), minlength=256))
    numbers = levels[(levels > 0) & (levels < 255)]
    if numbers.size and levels.size > 1 and numbers[-1] < MOST_LABELS:
        shown = ", ".join(map(str, levels[:4])) + " ..." * (levels.size > 4)
        remedy = "save background as 0 and foreground as 255"
        raise UnreadableImage(f"its levels, {shown}, look like numbers of labels; {remedy}")


def scale_mask(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Scale a mask to (height, width), bilinearly with half-pixel centres: uint8."""
    if mask.shape == tuple(size):
        return mask
    return cv2.resize(mask, (size[1], size[0]), interpolation=cv2.INTER_LINEAR)


def _background(image: Image.Image) -> int | None:
    """Return the background's index in an image of labels; None for an image of grays."""
    palette = np.array(image.getpalette("RGB"), np.uint8).reshape(-1, 3)
    if (palette == palette[:, :1]).all():
        return None
    used = np.unique(np.asarray(image))
    black = [index for index in used.tolist() if index < len(palette) and not palette[index].any()]
    return black[0] if black else 0
