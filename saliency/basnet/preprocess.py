"""What BASNet sees of an image, and what becomes of its map: as the authors' code does it."""

import cv2
import numpy as np
from PIL import Image

from data.images import IMAGENET_MEAN, IMAGENET_STD

SIZE = 256
"""Side of the square that the published network takes, in pixels."""

_MEAN = np.array(IMAGENET_MEAN, np.float32)
_STD = np.array(IMAGENET_STD, np.float32)


def resize_image(image: np.ndarray, size: int = SIZE) -> np.ndarray:
    """Resize to a square, bilinear without antialiasing, as scikit-image's ``resize(order=1)``.

    image : uint8 or float (h, w) or (h, w, 3).
    size : side of the result in pixels; the aspect is not kept.

    Returns float32 (size, size, 3), same range as `image`. Where a side is enlarged, the outermost
    pixels fade towards the zeros that the authors' resize (``mode="constant"``) puts around the
    image, but not below the image's minimum (its ``clip=True``).
    """
    height, width = image.shape[:2]
    resized = cv2.resize(image.astype(np.float32), (size, size), interpolation=cv2.INTER_LINEAR)
    if height < size or width < size:
        inside = np.outer(_inside(height, size), _inside(width, size))
        resized *= inside if resized.ndim == 2 else inside[..., None]
        resized = np.maximum(resized, image.min())
    return resized if resized.ndim == 3 else np.repeat(resized[..., None], 3, axis=2)


def _inside(source: int, size: int) -> np.ndarray:
    """How much of every target pixel's interpolation weight lies inside the source, (size,)."""
    position = (np.arange(size, dtype=np.float32) + 0.5) * (source / size) - 0.5
    outside = np.maximum(-position, 0) + np.maximum(position - (source - 1), 0)
    return 1 - outside


def normalise(resized: np.ndarray) -> np.ndarray:
    """Scale by the image's own maximum, then by ImageNet's mean and standard deviation.

    resized : float32 (h, w, 3), RGB of any range. Three equal channels count as a grayscale image,
        for which the authors use the red channel's mean and deviation on all three.

    Returns the network's input, float32 (3, h, w).
    """
    scaled = resized / (resized.max() or 1)
    gray = np.array_equal(resized[..., 0], resized[..., 1]) and np.array_equal(
        resized[..., 0], resized[..., 2]
    )
    mean, std = (_MEAN[0], _STD[0]) if gray else (_MEAN, _STD)
    return np.ascontiguousarray(((scaled - mean) / std).transpose(2, 0, 1), dtype=np.float32)


def preprocess(image: np.ndarray, size: int = SIZE) -> np.ndarray:
    """uint8 RGB (h, w, 3) or grayscale (h, w) to the network's input, float32 (3, size, size)."""
    return normalise(resize_image(image, size))


def stretch(maps: np.ndarray) -> np.ndarray:
    """Min-max normalise every map of a batch, float (N, h, w), by itself to float32 in [0, 1].

    A constant map becomes 0 (the authors divide 0 by 0).
    """
    low = maps.min(axis=(1, 2), keepdims=True)
    span = maps.max(axis=(1, 2), keepdims=True) - low
    return ((maps - low) / np.where(span > 0, span, 1)).astype(np.float32)


def resize_map(saliency: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize a float32 map (h, w) to (height, width), bilinear; antialiased where it shrinks."""
    height, width = size
    if saliency.shape == (height, width):
        return saliency
    return np.asarray(Image.fromarray(saliency).resize((width, height), Image.Resampling.BILINEAR))
