"""Artificial frames around photographs, which RBD's demo script cuts off (`removeframe.m`)."""

import cv2
import numpy as np

_SEARCHED = 30  # outer rows and columns looked at
_DENSITY = 0.6  # share of edge pixels that makes a row or column a frame line


def inside_frame(image: np.ndarray) -> tuple[slice, slice]:
    """Return what remains of an image within its frame.

    A row or column near a side, most of whose pixels are edges, is a frame line. A side's frame
    reaches to its innermost line, that line included. If any side has a frame, the sides without
    are taken to have one too, as wide as the widest.

    image : uint8 (H, W, 3) RGB.

    Returns slices of rows and of columns: of the whole image where there is no frame, or where the
    image is too small for a frame.
    """
    h, w = image.shape[:2]
    if min(h, w) <= 2 * _SEARCHED:
        return slice(0, h), slice(0, w)
    edges = sobel_edges(image)
    by_row, by_column = edges.mean(axis=1), edges.mean(axis=0)
    widths = [
        max(np.flatnonzero(side > _DENSITY) + 1, default=0)  # the innermost line goes too
        for side in (
            by_row[:_SEARCHED],
            by_row[::-1][:_SEARCHED],
            by_column[:_SEARCHED],
            by_column[::-1][:_SEARCHED],
        )
    ]
    top, bottom, left, right = (int(width) or int(max(widths)) for width in widths)
    return slice(top, h - bottom), slice(left, w - right)


def sobel_edges(image: np.ndarray) -> np.ndarray:
    """Thinned Sobel edges at MATLAB's automatic threshold: uint8 (H, W, 3) to bool (H, W)."""
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float64) / 255
    gx = cv2.Sobel(grey, cv2.CV_64F, 1, 0, scale=1 / 8, borderType=cv2.BORDER_REPLICATE)
    gy = cv2.Sobel(grey, cv2.CV_64F, 0, 1, scale=1 / 8, borderType=cv2.BORDER_REPLICATE)
    strength = gx**2 + gy**2
    padded = np.pad(strength, 1)
    left, right = padded[1:-1, :-2], padded[1:-1, 2:]
    above, below = padded[:-2, 1:-1], padded[2:, 1:-1]
    crest_x = (np.abs(gx) >= np.abs(gy)) & (left <= strength) & (strength > right)
    crest_y = (np.abs(gy) >= np.abs(gx)) & (above <= strength) & (strength > below)
    return (strength > 4 * strength.mean()) & (crest_x | crest_y)
