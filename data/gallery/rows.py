"""What a gallery shows, before it is drawn: cells, rows, figures; pictures fitted to a size."""

from __future__ import annotations

import io
from dataclasses import dataclass

import cv2
import numpy as np
from PIL import Image


@dataclass
class Cell:
    """A picture with a caption.

    picture : uint8 (h, w, 3) RGB or (h, w) gray; None: the caption says why there is none.
    right : True frames it green, False red.
    """

    picture: np.ndarray | None
    caption: str = ""
    right: bool | None = None


@dataclass
class Row:
    """Cells beside each other, and a caption above them."""

    caption: str
    cells: list[Cell]


@dataclass
class Figure:
    """A plot on the page: its heading, a PNG (bytes, or the path of one beside the page), a text.

    more : path of a page with more of it, linked below; "" for none.
    """

    title: str
    png: bytes | str
    text: str = ""
    more: str = ""


def png_bytes(picture: Image.Image) -> bytes:
    """Return a picture as a PNG file."""
    memory = io.BytesIO()
    picture.save(memory, "PNG")
    return memory.getvalue()


def as_rgb(picture: np.ndarray) -> np.ndarray:
    """Return uint8 (h, w) or (h, w, 3) as (h, w, 3)."""
    return np.repeat(picture[..., None], 3, 2) if picture.ndim == 2 else picture


def fit(picture: np.ndarray, side: int) -> np.ndarray:
    """Bring a picture's longer side to `side`: shrunk by area averages, enlarged by whole pixels.

    Enlarged only by a whole number, so that every pixel of a small view can be seen.
    """
    height, width = picture.shape[:2]
    scale = side / max(height, width)
    if scale >= 1:
        return picture.repeat(int(scale), 0).repeat(int(scale), 1)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
