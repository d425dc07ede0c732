"""Which masks are too poor to paste: (nearly) empty, nearly everything, or ragged."""

import math

import numpy as np

LEAST, MOST = 0.05, 0.9
"""Shares of an image that a mask worth pasting covers; see docs/saliency.md for how often."""

RAGGED = 4.0
"""Raggedness above which a mask is poor: of ECSSD's true masks one in a hundred has more."""


def coverage(mask: np.ndarray) -> float:
    """Return the mean of a mask, uint8 (h, w), in [0, 1]; 0 of one without pixels."""
    return float(mask.mean()) / 255 if mask.size else 0.0


def raggedness(mask: np.ndarray) -> float:
    """Return the length of a mask's outline over that of the square of its area.

    1 for a square, 1.13 for a disc in pixels, 2 for four squares; 0 where nothing reaches 128.

    mask : uint8 (h, w).
    """
    inside = np.pad(mask >= 128, 1)
    area = int(inside.sum())
    outline = int((inside[1:] != inside[:-1]).sum()) + int((inside[:, 1:] != inside[:, :-1]).sum())
    return outline / (4 * math.sqrt(area)) if area else 0.0


def why_poor(mask: np.ndarray) -> str:
    """Return "nearly empty", "nearly everything" or "ragged"; "" of a mask worth pasting."""
    share = coverage(mask)
    if share < LEAST:
        return "nearly empty"
    if share > MOST:
        return "nearly everything"
    return "ragged" if raggedness(mask) > RAGGED else ""
