"""What Pillow leaves to do: images upright by their EXIF data, any of its modes as 8-bit RGB."""

from collections.abc import Callable, Mapping

import numpy as np
from PIL import Image

PAGE = (255, 255, 255)
"""What shows through transparent pixels: white, as on a page."""

_BAND = 1 << 22  # pixels that are converted at a time

TURN = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""Pillow's turn for each EXIF orientation but 1, which is upright."""


def orientation(image: Image.Image) -> int:
    """Return the EXIF orientation, 1..8; 1 is upright."""
    try:
        value = int(image.getexif().get(0x0112, 1))
    except Exception:  # damaged EXIF data: shown as it is stored
        return 1
    return value if value in TURN else 1


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
    rows = factor * max(1, _BAND // (width * factor))
    out = np.empty((-(-height // factor), -(-width // factor), 3), np.uint8)
    for top in range(0, height, rows):
        bottom = min(top + rows, height)
        whole = top == 0 and bottom == height
        band = convert(image if whole else image.crop((0, top, width, bottom)))
        if factor > 1:
            band = band.reduce(factor)
        out[top // factor : top // factor + band.height] = band
    return out


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
    values = np.asarray(image)
    values = values[np.isfinite(values)]
    low, high = (float(values.min()), float(values.max())) if values.size else (0.0, 1.0)
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
