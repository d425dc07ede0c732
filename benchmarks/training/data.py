"""Photographs of ImageNet's usual size, made where none are given."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import skimage.data

SIZE = (375, 500)  # height and width, ImageNet's commonest
QUALITY = 90
_SOURCES = ("astronaut", "chelsea", "coffee", "rocket", "immunohistochemistry")  # in its wheel


def make_photographs(folder: Path, count: int) -> None:
    """Write `count` JPEGs of 500x375 in four class folders: pieces of scikit-image's photographs.

    Pieces overlap but differ, so their sizes in bytes and their decoding cost are a photograph's.
    """
    sources = []
    for name in _SOURCES:
        image = getattr(skimage.data, name)()[..., :3]
        scale = 1.3 * max(SIZE[0] / image.shape[0], SIZE[1] / image.shape[1])
        sources.append(cv2.resize(image, None, fx=max(1, scale), fy=max(1, scale)))
    rng = np.random.default_rng(0)
    for number in range(count):
        image = sources[number % len(sources)]
        top = rng.integers(image.shape[0] - SIZE[0] + 1)
        left = rng.integers(image.shape[1] - SIZE[1] + 1)
        piece = image[top : top + SIZE[0], left : left + SIZE[1]]
        path = folder / f"class-{number % 4}" / f"{number:05d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), piece[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
