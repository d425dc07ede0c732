"""Whole images in the colours of SLIC, row by row as `slic` converts them."""

import numpy as np

from saliency.regions.colour import EPFL, SPLIT, lab_row


def lab_split(image: np.ndarray) -> np.ndarray:
    """As the SLIC of RBD and GS sees an image: float32 (3, H, W), as the authors store it."""
    return _lab(image, SPLIT).astype(np.float32)


def lab_epfl(image: np.ndarray) -> np.ndarray:
    """As the SLIC of MC sees an image, without rounding: float64 (3, H, W)."""
    return _lab(image, EPFL)


def _lab(image, conversion):
    rows = np.empty((image.shape[0], 3, image.shape[1]))
    for y, row in enumerate(rows):
        lab_row(image, y, conversion, row)
    return rows.swapaxes(0, 1)
