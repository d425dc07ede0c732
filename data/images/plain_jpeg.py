"""Upright colour JPEGs, most of all photographs: decoded by OpenCV, whole or at a fraction."""

import contextlib

import cv2
import numpy as np
from PIL import Image

from data.images.limits import END_OF_JPEG
from data.images.modes import orientation


def is_plain_jpeg(image: Image.Image, data: bytes) -> bool:
    """Tell a whole, upright, three-channel JPEG from everything else.

    A file that does not end with the end-of-image marker is left to Pillow, which tells a truncated
    image from a whole one.
    """
    return (
        image.format == "JPEG"
        and image.mode == "RGB"
        and data.endswith(END_OF_JPEG)
        and orientation(image) == 1
    )


def is_baseline(image: Image.Image) -> bool:
    """Whether a plain JPEG is YCbCr, not progressive, its chroma subsampled in a common way."""
    names, across, down, _ = zip(*image.layer, strict=True)
    return (
        names == (1, 2, 3)
        and image.info.get("adobe_transform", 1) == 1  # 0: RGB
        and "progressive" not in image.info
        and (across[0], down[0]) in {(1, 1), (2, 1), (1, 2), (2, 2), (4, 1)}
        and across[1:] == down[1:] == (1, 1)
    )


_REDUCED = {
    1: cv2.IMREAD_COLOR_RGB,
    2: cv2.IMREAD_REDUCED_COLOR_2,
    4: cv2.IMREAD_REDUCED_COLOR_4,
    8: cv2.IMREAD_REDUCED_COLOR_8,
}


def decode_plain_jpeg(
    image: Image.Image, data: bytes, target: tuple[int, int], reduction: int = 1
) -> np.ndarray | None:
    """Decode a plain JPEG by OpenCV: Pillow's pixels in 2/3 of its time. Both use libjpeg-turbo.

    image, data : as Pillow opened it, and the file.
    target : the height and width that are wanted in the end.
    reduction : divides the sides by 1, 2, 4 or 8, rounding up.

    Returns uint8 (h, w, 3) RGB; None where another decoder has to do it: not a plain JPEG, damaged,
    or so much larger than its target that decoding it at a smaller scale is faster.
    """
    # beyond four times the target, decoding at a smaller scale is faster
    if max(image.size) >= 4 * max(target) or not is_plain_jpeg(image, data):
        return None
    return _decode(data, image.size, reduction)


def decode_like_pillow(image: Image.Image, data: bytes, reduction: int) -> np.ndarray | None:
    """Decode any whole three-channel JPEG, as it is stored, as `draft` and `load` of Pillow do.

    Parameters and result are as for `decode_plain_jpeg`.
    """
    known = image.mode == "RGB" and data.endswith(END_OF_JPEG)
    return _decode(data, image.size, reduction) if known else None


def print_damage(data: bytes) -> None:
    """Have OpenCV print what is wrong with a JPEG that another decoder took without a word."""
    with contextlib.suppress(cv2.error):
        cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_REDUCED_GRAYSCALE_8)


def _decode(data: bytes, size: tuple[int, int], reduction: int) -> np.ndarray | None:
    """Decode a JPEG of (width, height) at a fraction; None where that cannot be done."""
    try:
        flags = _REDUCED[reduction] | cv2.IMREAD_IGNORE_ORIENTATION
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error:
        return None
    if pixels is None or pixels.shape != (-(-size[1] // reduction), -(-size[0] // reduction), 3):
        return None
    # OpenCV knows reduced decoding in BGR alone
    return pixels if reduction == 1 else cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)
