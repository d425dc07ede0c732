"""Pictures in a terminal with 24-bit colours, two pixels to a character."""

from __future__ import annotations

import cv2
import numpy as np

from data.gallery.rows import Row, as_rgb
from data.keys import printable


def row_as_text(row: Row, columns: int) -> str:
    """Return a row for a terminal of `columns` characters: its pictures, below them the captions.

    Pictures are drawn side by side, as tall as the tallest.
    """
    pictures = [as_rgb(cell.picture) for cell in row.cells if cell.picture is not None]
    tallest = max((picture.shape[0] for picture in pictures), default=0)
    padded = [np.pad(p, ((0, tallest - p.shape[0]), (0, 0), (0, 0))) for p in pictures]
    captions = [row.caption, *(cell.caption for cell in row.cells)]
    text = "  ".join(printable(caption) for caption in captions if caption)
    return (half_blocks(np.hstack(padded), columns) + "\n" if padded else "") + text


def half_blocks(image: np.ndarray, columns: int) -> str:
    """Return an image, uint8 (h, w, 3) RGB, as text at most `columns` characters wide.

    Each character is an upper half block: its upper pixel the foreground, its lower one the
    background.
    """
    height, width = image.shape[:2]
    scale = min(1.0, columns / width)
    columns, lines = max(1, int(width * scale)), max(1, round(height * scale / 2))
    pixels = cv2.resize(image, (columns, 2 * lines), interpolation=cv2.INTER_AREA)
    text = []
    for upper, lower in zip(pixels[::2].tolist(), pixels[1::2].tolist(), strict=True):
        cells = (
            f"\x1b[38;2;{r};{g};{b};48;2;{x};{y};{z}m▀"
            for (r, g, b), (x, y, z) in zip(upper, lower, strict=True)
        )
        text.append("".join(cells) + "\x1b[0m")
    return "\n".join(text)
