"""Pictures in a terminal, two pixels to a character."""

import cv2
import numpy as np


def half_blocks(image: np.ndarray, columns: int) -> str:
    """Return an image as text for a terminal with 24-bit colours.

    Each character is an upper half block: its upper pixel the foreground, its lower one the
    background.

    Parameters
    ----------
    image : uint8 array, (h, w, 3)
        RGB.
    columns
        The terminal's width in characters.
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
