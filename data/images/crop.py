"""Cut a box out of an image or a mask and bring it to another size, antialiased."""

import math
from collections.abc import Sequence

import cv2
import numpy as np
import torch

from data.images.bilinear import sample_grid

Box = tuple[int, int, int, int]  # (top, left, height, width), whole pixels


def crop_resize(
    image: np.ndarray, box: tuple[int, int, int, int], size: int | tuple[int, int]
) -> np.ndarray:
    """Cut a box of whole pixels and resize it to (height, width), or to size x size.

    The same pixels as torchvision's `resized_crop` (bilinear, antialiased) of a uint8 tensor: this
    is its kernel, on the channels-last layout that the decoder leaves, where it is fastest.

    image : uint8 (H, W, 3).
    box : (top, left, height, width) within the image.

    Returns uint8 (height, width, 3).
    """
    top, left, height, width = box
    size = (size, size) if isinstance(size, int) else size
    pixels = torch.from_numpy(image[top : top + height, left : left + width])
    if (height, width) == size:
        return pixels.numpy()
    view = torch.nn.functional.interpolate(
        pixels.permute(2, 0, 1)[None], size, mode="bilinear", antialias=True
    )
    return view[0].permute(1, 2, 0).numpy()


def whole_image(image: np.ndarray, size: int) -> np.ndarray:
    """The whole image, uint8 (H, W, 3), resized to (size, size, 3) without regard to its sides."""
    return crop_resize(image, (0, 0, *image.shape[:2]), size)


def reduction_for(boxes: Sequence[tuple[int, int, int, int]], size: int) -> int:
    """Return by what an image may be reduced before boxes of it are resized to size x size.

    1, 2, 4 or 8: the largest at which no side of a box, (top, left, height, width), falls below
    `size`, so that nothing is ever enlarged for it.
    """
    least = min(min(height, width) for _, _, height, width in boxes)
    return next((factor for factor in (8, 4, 2) if least >= factor * (size + 1)), 1)


def snap_box(
    box: tuple[int, int, int, int], reduction: int, image_size: tuple[int, int]
) -> tuple[int, int, int, int]:
    """Move a box's borders to multiples of `reduction`, within the image; by half of it at most.

    So the same part of the picture is cut out of the reduced image (the box divided by `reduction`)
    and of its mask.
    """
    snapped = []
    for start, length, limit in zip(box[:2], box[2:], image_size, strict=True):
        first = round(start / reduction)
        last = min(round((start + length) / reduction), limit // reduction)
        snapped.append((first * reduction, (last - first) * reduction))
    (top, height), (left, width) = snapped
    return top, left, height, width


def centre_crop(image: np.ndarray, size: int) -> np.ndarray:
    """Resize the shorter side to size * 256 / 224 and cut the size x size centre, for evaluation.

    The same pixels as torchvision's Resize and CenterCrop of a uint8 tensor; the customary 256 and
    224 pixels, at any size. (Of a strip more than 16 times as long as wide, which could fill the
    memory when resized, only the middle is.)

    image : uint8 (H, W, 3).

    Returns uint8 (size, size, 3).
    """
    image = _without_ends(image)
    height, width = image.shape[:2]
    target = evaluation_size(height, width, size)
    pixels = torch.from_numpy(image).permute(2, 0, 1)[None]
    if target != (height, width):
        pixels = torch.nn.functional.interpolate(pixels, target, mode="bilinear", antialias=True)
    top, left = round((target[0] - size) / 2), round((target[1] - size) / 2)
    return pixels[0, :, top : top + size, left : left + size].permute(1, 2, 0).numpy()


def evaluation_size(height: int, width: int, size: int) -> tuple[int, int]:
    """Return (height, width) to which `centre_crop` resizes an image, as torchvision rounds it."""
    short = round(size * 256 / 224)
    if height <= width:
        return short, int(short * width / height)
    return int(short * height / width), short


def _without_ends(image: np.ndarray) -> np.ndarray:
    most = 16 * min(image.shape[:2])
    top, left = (max(0, (side - most) // 2) for side in image.shape[:2])
    return image[top : top + most, left : left + most]


def sample_box(
    array: np.ndarray,
    box: tuple[float, float, float, float],
    size: tuple[int, int],
) -> np.ndarray:
    """Resample a box with fractional borders, bilinearly with half-pixel centres.

    For rasters that have another resolution than the image whose crop they follow: masks and
    backgrounds. Pixels outside the array repeat its border. Where it shrinks by k or more (k =
    1.5 rounds to 2), k x k pixels are first averaged, which antialiases.

    array : uint8 (H, W) or (H, W, 3).
    box : (top, left, height, width) in pixels of `array`.
    size : (height, width) of the result.

    Returns uint8 array of that size.
    """
    top, left, height, width = box
    shrink_y = max(1, round(height / size[0]))
    shrink_x = max(1, round(width / size[1]))
    if shrink_y > 1 or shrink_x > 1:
        # Only of the part that is looked at, with a margin for the interpolation.
        first_y = min(max(0, math.floor(top) - shrink_y), array.shape[0] - 1)
        first_x = min(max(0, math.floor(left) - shrink_x), array.shape[1] - 1)
        part = array[
            first_y : math.ceil(top + height) + 2 * shrink_y,
            first_x : math.ceil(left + width) + 2 * shrink_x,
        ]
        array = _average(part, shrink_y, shrink_x)
        top, left = (top - first_y) / shrink_y, (left - first_x) / shrink_x
        height, width = height / shrink_y, width / shrink_x
    array = np.ascontiguousarray(array)
    channels = array[0, 0].size
    sampled = np.empty((*size, *array.shape[2:]), np.uint8)
    step_y, step_x = height / size[0], width / size[1]
    # Output pixel (y, x) has its centre at top + (y + .5) step_y - .5, in pixel indices.
    sample_grid(
        array.reshape(len(array), -1),
        channels,
        top + 0.5 * step_y - 0.5,
        left + 0.5 * step_x - 0.5,
        step_y,
        step_x,
        sampled.reshape(size[0], -1),
    )
    return sampled


def box_within(
    outer: tuple[float, float, float, float],
    box: tuple[int, int, int, int],
    image_size: tuple[int, int],
) -> tuple[float, float, float, float]:
    """Return the part of `outer`, which covers the whole image, that a box of the image covers."""
    scale_y, scale_x = outer[2] / image_size[0], outer[3] / image_size[1]
    top, left, height, width = box
    return outer[0] + top * scale_y, outer[1] + left * scale_x, height * scale_y, width * scale_x


def _average(array: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """Average blocks of rows x columns pixels; the last ones are filled by repeating the border."""
    height, width = -(-array.shape[0] // rows), -(-array.shape[1] // columns)
    below, beside = height * rows - array.shape[0], width * columns - array.shape[1]
    if below or beside:
        array = cv2.copyMakeBorder(array, 0, below, 0, beside, cv2.BORDER_REPLICATE)
    return cv2.resize(array, (width, height), interpolation=cv2.INTER_AREA)
