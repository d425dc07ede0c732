"""What Pillow leaves to do: images upright by their EXIF data, any of its modes as 8-bit RGB.

And what it refuses though it is sound: TIFFs of numbers without a mode, PNGs with bad side notes.
"""

import os
import struct
import zlib
from collections.abc import Callable, Iterator, Mapping
from io import BytesIO
from typing import BinaryIO

import cv2
import numpy as np
from PIL import Image, TiffImagePlugin

from data.images.limits import TooLarge, check_memory, in_time

PAGE = (255, 255, 255)
"""What shows through transparent pixels: white, as on a page."""

_BAND = 1 << 18  # pixels that are converted at a time

_TURN: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    2: lambda pixels: pixels[:, ::-1],
    3: lambda pixels: pixels[::-1, ::-1],
    4: lambda pixels: pixels[::-1],
    5: lambda pixels: pixels.swapaxes(0, 1),
    6: lambda pixels: np.rot90(pixels, -1),
    7: lambda pixels: pixels[::-1, ::-1].swapaxes(0, 1),
    8: lambda pixels: np.rot90(pixels),
}
"""What turns the pixels of each EXIF orientation but 1 upright."""


def upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Return the pixels (h, w, 3) of an image of this EXIF orientation as they are seen."""
    return _TURN[orientation](pixels) if orientation in _TURN else pixels


def orientation(image: Image.Image) -> int:
    """Return the EXIF orientation, 1..8; 1 is upright."""
    try:
        with in_time(image.width * image.height):  # Pillow loads a PNG to find it
            value = int(image.getexif().get(0x0112, 1))
    except TooLarge:
        raise
    except Exception:  # damaged EXIF data: shown as it is stored
        return 1
    return value if value in _TURN else 1


def upright_size(image: Image.Image) -> tuple[int, int]:
    """Return an opened image's height and width when it stands upright."""
    sideways = orientation(image) in (5, 6, 7, 8)
    return (image.width, image.height) if sideways else (image.height, image.width)


def to_rgb(image: Image.Image, factor: int = 1) -> np.ndarray:
    """Convert a loaded image to uint8 (h, w, 3) RGB, averaged over squares of `factor` pixels.

    Band by band, so that of a huge image no second copy is made.
    """
    width, height = image.size
    convert = _converter(image)
    out = np.empty((-(-height // factor), -(-width // factor), 3), np.uint8)
    for top, band in _bands(image, factor):
        band = convert(band)
        if factor > 1:
            band = band.reduce(factor)
        out[top // factor : top // factor + band.height] = band
    return out


def _bands(image: Image.Image, factor: int = 1) -> Iterator[tuple[int, Image.Image]]:
    """Yield an image's bands, of multiples of `factor` rows, and where they begin."""
    width, height = image.size
    rows = factor * max(1, _BAND // (width * factor))
    for top in range(0, height, rows):
        whole = rows >= height
        yield top, image if whole else image.crop((0, top, width, min(top + rows, height)))


def _converter(image: Image.Image) -> Callable[[Image.Image], Image.Image]:
    """Return the function that turns this image, or a band of it, into RGB."""
    if image.mode == "F" or image.mode.startswith("I"):
        tags = image.tag_v2 if image.format == "TIFF" else {}
        unsigned = image.mode == "I" and max(tags.get(258, (0,))) == 32 and 2 not in _kinds(tags)
        low, high = (0.0, 2.0**32 - 1) if unsigned and _is_wide(image) else _gray_range(image)
        ends = (high, low) if tags.get(262) == 0 else (low, high)  # white is zero: Pillow leaves it

        def scale(band: Image.Image) -> Image.Image:
            values = np.asarray(band)
            values = values.view(np.uint32) if unsigned else values
            values = np.nan_to_num(values.astype(np.float64), nan=low)
            gray = (values - ends[0]) * (255 / (ends[1] - ends[0]))
            return Image.fromarray(np.rint(gray).clip(0, 255).astype(np.uint8)).convert("RGB")

        return scale
    if image.has_transparency_data:

        def on_page(band: Image.Image) -> Image.Image:
            page = Image.new("RGBA", band.size, (*PAGE, 255))
            return Image.alpha_composite(page, band.convert("RGBA")).convert("RGB")

        return on_page
    return lambda band: band.convert("RGB")


def _kinds(tags: Mapping) -> tuple[int, ...]:
    """Of a TIFF's numbers: 1 unsigned, 2 signed, 3 floating point."""
    return tuple(np.atleast_1d(tags.get(339) or 1).tolist())


def _is_wide(image: Image.Image) -> bool:
    """Whether 32-bit integers need more than 16 of their bits."""
    low, high = image.getextrema()
    return low < 0 or high > 65535


def _gray_range(image: Image.Image) -> tuple[float, float]:
    """Return the values that black and white have in a gray image of more than 8 bits."""
    if image.mode.startswith("I;16") or image.format in ("PNG", "PPM"):  # 16-bit, maybe widened
        return 0.0, 65535.0
    ends: list[float] = []
    for _, band in _bands(image):
        values = np.asarray(band)
        values = values[np.isfinite(values)]
        ends += [float(values.min()), float(values.max())] if values.size else []
    low, high = (min(ends), max(ends)) if ends else (0.0, 1.0)
    if image.mode == "F":
        return float_range(low, high)
    if low >= 0 and high <= 65535 and image.mode == "I":
        return 0.0, 65535.0 if high > 255 else 255.0
    return low, high if high > low else low + 1.0


def float_range(low: float, high: float) -> tuple[float, float]:
    """Return the values of black and white where floating-point grays go from `low` to `high`."""
    for white in (1.0, 255.0):
        if low >= 0 and high <= white:
            return 0.0, white
    return low, high if high > low else low + 1.0


# ---- sound images that Pillow refuses ------------------------------------------------------------


_PIXELS = (b"IHDR", b"PLTE", b"tRNS", b"IDAT")
_NEEDED = (*_PIXELS, b"IEND", b"eXIf")
_NUMBERS = {1: "integer", 2: "signed integer", 3: "floating-point"}


def without_side_notes(file: BinaryIO) -> BytesIO | None:
    """Return a PNG with the chunks alone that its pixels need; None for another file."""
    file.seek(0)
    signature, size = file.read(8), file.seek(0, os.SEEK_END)
    file.seek(8)
    if signature != b"\x89PNG\r\n\x1a\n":
        return None
    out, kept = BytesIO(), 0
    out.write(signature)
    while len(head := file.read(8)) == 8:
        length, kind = struct.unpack(">I4s", head)
        if kind in _NEEDED:
            kept += length
            check_memory(kept + size, "a PNG's pixels")
            out.write(head + file.read(length + 4))
        else:
            file.seek(length + 4, 1)
        if kind == b"IEND":
            break
    out.seek(0)
    return out


def png_damage(data: bytes) -> str:
    """Return a remark on a PNG's pixels, where they are not what their CRC-32 says; else "".

    The decoders pass it over.
    """
    view, at = memoryview(data), 8
    while at + 12 <= len(view):
        length, kind = struct.unpack_from(">I4s", view, at)
        end = at + 8 + length
        if kind in _PIXELS and view[end : end + 4] != _crc(view[at + 4 : end]):
            return f"{kind.decode()}: its bytes are not those of its checksum"
        if kind == b"IEND":
            break
        at = end + 4
    return ""


def _crc(data: memoryview) -> bytes:
    return zlib.crc32(data).to_bytes(4, "big")


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
    check_memory(needed, f"{tags[256]}x{tags[257]} pixels of {samples} x {bits} bits")
    file.seek(0)
    planes = samples > 1 and tags.get(284) == 2  # OpenCV would mix them up
    values = None if planes else _by_opencv(np.frombuffer(_whole(file), np.uint8))
    if values is None:
        kind = _NUMBERS.get(max(tags.get(339, (1,))), "unknown")
        kind += " numbers in planes" if planes else " numbers"
        raise ValueError(f"TIFF of {samples} x {bits}-bit {kind} is not read")
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
