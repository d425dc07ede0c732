"""A picture as a mask, whatever way a tool stores masks: gray, labels, a cut-out's transparency."""

import os

import numpy as np
from PIL import Image

from data.images.decode import open_image
from data.images.modes import to_rgb


def read_mask(path: str | os.PathLike) -> np.ndarray:
    """Read a mask of any image format as uint8 (h, w), 255 foreground. UnreadableImage.

    - Of a cut-out with transparency, the alpha is the mask.
    - Of a palette with colours, as VOC's labels have, black is background (where there is no
      black, index 0) and every other index is foreground, the border that VOC leaves out too.
    - Zeros and ones alone count as 0 and 255.
    - Anything else is gray; 16 bits are scaled to 8.
    """
    with open_image(path) as image:
        image.load()
        if image.has_transparency_data:
            alpha = np.asarray(image.convert("RGBA").getchannel("A"))
            if alpha.min() != alpha.max():
                return alpha
        if image.mode == "P" and (background := _background(image)) is not None:
            return np.where(np.asarray(image) == background, 0, 255).astype(np.uint8)
        rgb = to_rgb(image)
        # 16 bits would hardly leave anything of a one, and a single band's one may be rounded away
        values = np.asarray(image) if image.mode.startswith("I") else rgb
        if values.max() == 1 and values.min() >= 0:
            return np.where(values.reshape(*rgb.shape[:2], -1).any(2), 255, 0).astype(np.uint8)
        return np.asarray(Image.fromarray(rgb).convert("L"))


def _background(image: Image.Image) -> int | None:
    """Return the background's index in an image of labels; None for an image of grays."""
    palette = np.array(image.getpalette("RGB"), np.uint8).reshape(-1, 3)
    if (palette == palette[:, :1]).all():
        return None
    used = np.unique(np.asarray(image))
    black = [index for index in used.tolist() if index < len(palette) and not palette[index].any()]
    return black[0] if black else 0
