"""Sound images that Pillow refuses: TIFFs of numbers without a mode, PNGs with bad side notes."""

import os
import struct
from io import BytesIO
from typing import BinaryIO

import cv2
import numpy as np
from PIL import Image, TiffImagePlugin

from data.images.limits import TooLarge, most_bytes
from data.images.modes import float_range, upright

_NEEDED = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND", b"eXIf")
_NUMBERS = {1: "integer", 2: "signed integer", 3: "floating-point"}


def without_side_notes(file: BinaryIO) -> BytesIO | None:
    """Return a PNG with the chunks alone that its pixels need; None for another file."""
    file.seek(0)
    signature, most = file.read(8), most_bytes() - file.seek(0, os.SEEK_END)
    file.seek(8)
    if signature != b"\x89PNG\r\n\x1a\n":
        return None
    out, kept = BytesIO(), 0
    out.write(signature)
    while len(head := file.read(8)) == 8:
        length, kind = struct.unpack(">I4s", head)
        if kind in _NEEDED:
            kept += length
            if kept > most:
                raise TooLarge(f"a PNG of more than {most / 1e9:.2f} GB")
            out.write(head + file.read(length + 4))
        else:
            file.seek(length + 4, 1)
        if kind == b"IEND":
            break
    out.seek(0)
    return out


def read_tiff(file: BinaryIO) -> Image.Image | None:
    """Return a TIFF of floating-point or 32-bit colours, upright, as 8-bit RGB; None: no TIFF.

    Integers are scaled by their type's range; floating point from [0, 1], [0, 255], or else from
    its own range. Raises TooLarge, and ValueError for numbers that OpenCV does not know either.
    """
    file.seek(0)
    head = file.read(8)
    if head[:4] not in (b"II*\0", b"MM\0*"):
        return None
    tags = TiffImagePlugin.ImageFileDirectory_v2(head)
    file.seek(tags.next)
    tags.load(file)
    bits, samples = max(tags.get(258, (1,))), tags.get(277, 1)
    needed = 3 * tags[256] * tags[257] * samples * max(1, bits // 8)
    if needed > most_bytes():
        raise TooLarge(
            f"{tags[256]}x{tags[257]} pixels of {samples} x {bits} bits take {needed / 1e9:.2f} GB "
            f"to decode, more than the limit of {most_bytes() / 1e9:.2f}"
        )
    file.seek(0)
    planes = samples > 1 and tags.get(284) == 2  # OpenCV would mix them up
    values = None if planes else _by_opencv(np.frombuffer(_whole(file), np.uint8))
    if values is None:
        kind = _NUMBERS.get(max(tags.get(339, (1,))), "unknown")
        raise ValueError(
            f"TIFF of {samples} x {bits}-bit {kind} numbers{' in planes' * planes} is not read"
        )
    pixels = _to_8_bits(values, white_is_zero=tags.get(262) == 0)
    return Image.fromarray(np.ascontiguousarray(upright(pixels, tags.get(274, 1))))


def _whole(file: BinaryIO) -> bytes | memoryview:
    return file.getbuffer() if isinstance(file, BytesIO) else file.read()


def _by_opencv(data: np.ndarray) -> np.ndarray | None:
    logs = cv2.utils.logging
    level = logs.setLogLevel(logs.LOG_LEVEL_SILENT)  # what it would print names no image
    try:
        return cv2.imdecode(data, cv2.IMREAD_UNCHANGED)
    except cv2.error:
        return None
    finally:
        logs.setLogLevel(level)


def _to_8_bits(values: np.ndarray, white_is_zero: bool) -> np.ndarray:
    """Return OpenCV's gray, BGR or BGRA of any type as uint8 RGB (h, w, 3)."""
    if values.ndim == 2:
        values = values[..., None]
    values = values[..., 2::-1] if values.shape[2] >= 3 else values[..., :1]
    if values.dtype.kind == "f":
        values = np.nan_to_num(values, nan=0.0)
        low, high = float_range(float(values.min()), float(values.max()))
    else:
        low, high = 0.0, float(np.iinfo(values.dtype).max)
    gray = np.rint((values.astype(np.float32) - low) * (255 / (high - low))).clip(0, 255)
    gray = 255 - gray if white_is_zero else gray
    return np.broadcast_to(gray.astype(np.uint8), (*gray.shape[:2], 3)).copy()
