"""Folders of images: list them, decode them as they are meant to be seen."""

import errno
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError

from data.errors import UserError
from data.keys import Keys

EXTENSIONS = frozenset(
    ".avif .bmp .dib .gif .jfif .jp2 .jpe .jpeg .jpg .pbm .pgm .png .pnm .ppm .tif .tiff .webp".split()
)
"""What counts as an image in a folder, in any case of letters."""

MAX_PIXELS = 250_000_000
"""Larger images are refused as unreadable: Pillow holds 4 bytes a pixel, here up to 1 GB."""

BACKGROUND = (255, 255, 255)
"""What shows through transparent pixels: white, as on a page."""


class UnreadableImage(Exception):
    """An image that cannot be decoded; its text is one short sentence that says why."""


class Decoded(NamedTuple):
    """A decoded image.

    Attributes
    ----------
    image : uint8 array, (h, w, 3)
        RGB, upright, its long side capped.
    image_size : (int, int)
        Height and width of the upright image before the cap.
    """

    image: np.ndarray
    image_size: tuple[int, int]


def list_images(root: str | os.PathLike) -> Keys:
    """List the images below a folder as sorted keys: paths relative to it, joined by `/`.

    Any tree will do. Files count by their extension (`EXTENSIONS`). Symbolic links are followed, to
    files and to folders; a folder that contains itself through a link is entered once. Hidden files and
    folders (a leading dot) are skipped.

    Raises
    ------
    UserError
        No such folder, not a folder, a folder below it that may not be read, or no image in it.
    """
    root = os.fspath(root)
    if not os.path.lexists(root):
        raise UserError(f"there is no folder {root!r}; give the folder that holds the images.")
    if not os.path.isdir(root):
        raise UserError(f"{root!r} is not a folder; give the folder that holds the images.")
    keys = Keys(_walk(root, "", ()))
    if not keys:
        known = " ".join(sorted(EXTENSIONS))
        raise UserError(f"there are no images in {root!r} (files ending in one of: {known}).")
    return keys


def _walk(folder: str, prefix: str, above: tuple[tuple[int, int], ...]) -> Iterator[str]:
    """Yield the keys below a folder; `above` holds (device, inode) of the folders that contain it."""
    try:
        facts = os.stat(folder)
        entries = list(os.scandir(folder))
    except OSError as error:
        raise UserError(
            f"the folder {folder!r} cannot be read ({_why(error)}); make it readable or move it away."
        ) from None
    here = (facts.st_dev, facts.st_ino)
    if here in above:
        return
    for entry in entries:
        if entry.name.startswith("."):
            continue
        if os.path.splitext(entry.name)[1].lower() in EXTENSIONS and not _is_dir(entry):
            if entry.is_file() or entry.is_symlink():  # a broken link is an image that is missing
                yield prefix + entry.name
        elif _is_dir(entry):
            yield from _walk(entry.path, f"{prefix}{entry.name}/", (*above, here))


def _is_dir(entry: os.DirEntry) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that points to itself
        return False


def key_path(root: str | os.PathLike, key: str) -> str:
    """Return the path of a key's image below the image root."""
    return os.path.join(os.fspath(root), *key.split("/"))


def read_size(path: str | os.PathLike) -> tuple[int, int]:
    """Return the upright height and width from an image's header, without decoding it.

    Raises UnreadableImage as `decode` does, for what the header tells.
    """
    with _reasons():
        with open(path, "rb") as file:
            image = _open(file)
            return _upright_size(image)


def decode(path: str | os.PathLike, max_side: int = 0) -> Decoded:
    """Decode an image as Pillow shows it, upright, in RGB.

    EXIF orientation is applied. Of an animation the first frame is taken. Palette, CMYK, grayscale, 1-bit
    and 16-bit images become 8-bit RGB (16 bits are scaled by 255/65535, not clipped; floating-point and
    32-bit images by their own range). Transparent pixels show `BACKGROUND`.

    Parameters
    ----------
    path
        The image file. Its content decides, not its name: a PNG named `.JPEG` is fine.
    max_side
        The long side's cap in pixels; a larger image is scaled down with antialiasing, a smaller one
        is left alone. 0: never scale.

    Raises
    ------
    UnreadableImage
        Missing, empty, truncated, not an image, not permitted, or more than `MAX_PIXELS` pixels.
    """
    with _reasons():
        with open(path, "rb") as file:
            data = file.read()
        image = _open(BytesIO(data))
        size = _upright_size(image)
        target = _capped(size, max_side)
        pixels = _decode_plain_jpeg(image, data, target)
        if pixels is None:
            pixels = _decode_any(image, target)
    return Decoded(_shrink(pixels, target), size)


@contextmanager
def _reasons() -> Iterator[None]:
    """Turn whatever goes wrong with an image file into UnreadableImage with a reason."""
    try:
        yield
    except UnreadableImage:
        raise
    except UnidentifiedImageError:
        raise UnreadableImage("not an image that Pillow knows") from None
    except MemoryError:
        raise UnreadableImage("not enough memory to decode it") from None
    except OSError as error:
        raise UnreadableImage(_why(error)) from None
    except Exception as error:  # decoders meet any garbage, and raise anything
        raise UnreadableImage(f"damaged ({_why(error)})") from None


def _why(error: Exception) -> str:
    """Return an exception's reason in one line."""
    if isinstance(error, OSError) and error.errno is not None:
        return {errno.EACCES: "permission denied", errno.ENOENT: "no such file"}.get(
            error.errno, str(error.strerror).lower()
        )
    return " ".join(str(error).split()) or type(error).__name__


_limit = threading.Lock()


def _open(file) -> Image.Image:
    """Open an image with this module's limit of pixels in the place of Pillow's."""
    start = file.read(1)
    if not start:
        raise UnreadableImage("empty file")
    file.seek(0)
    with _limit:
        theirs, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            image = Image.open(file)
        finally:
            Image.MAX_IMAGE_PIXELS = theirs
    if image.width * image.height > MAX_PIXELS:
        raise UnreadableImage(
            f"{image.width}x{image.height} pixels are more than the limit of {MAX_PIXELS}"
        )
    return image


def _orientation(image: Image.Image) -> int:
    """Return the EXIF orientation, 1..8; 1 is upright."""
    try:
        return int(image.getexif().get(0x0112, 1))
    except Exception:  # damaged EXIF data: Pillow shows such an image as it is stored
        return 1


def _upright_size(image: Image.Image) -> tuple[int, int]:
    turned = _orientation(image) in (5, 6, 7, 8)
    return (image.width, image.height) if turned else (image.height, image.width)


def _capped(size: tuple[int, int], max_side: int) -> tuple[int, int]:
    """Return (height, width) with the long side at most `max_side`, rounded, at least 1."""
    height, width = size
    if max_side <= 0 or max(size) <= max_side:
        return size
    scale = max_side / max(size)
    return max(1, round(height * scale)), max(1, round(width * scale))


def _decode_plain_jpeg(image: Image.Image, data: bytes, target) -> np.ndarray | None:
    """Decode a three-channel, upright, whole JPEG by OpenCV: the same pixels in two thirds of the time.

    Both use libjpeg-turbo. A file that does not end with the end-of-image marker goes to Pillow,
    which tells a truncated image from a whole one.
    """
    plain = (
        image.format == "JPEG"
        and image.mode == "RGB"
        and data.endswith(b"\xff\xd9")
        and _orientation(image) == 1
        and max(image.size) < 4 * max(target)  # beyond that, decoding at a smaller scale pays
    )
    if not plain:
        return None
    try:
        flags = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error:
        return None
    if pixels is None or pixels.shape != (image.height, image.width, 3):
        return None
    return pixels


def _decode_any(image: Image.Image, target: tuple[int, int]) -> np.ndarray:
    """Decode an opened image by Pillow to upright uint8 RGB, near `target` if that is much smaller."""
    orientation = _orientation(image)
    height, width = target
    side = max(height, width)
    if image.format == "JPEG" and max(image.size) >= 4 * side:
        image.draft(
            None, (2 * side, 2 * side)
        )  # the DCT at 1/2, 1/4, 1/8 keeps twice what is needed
    image.load()
    factor = max(image.size) // (2 * side)
    if factor > 1 and image.mode in ("L", "RGB", "RGBA", "CMYK", "LA"):
        image = image.reduce(factor)  # exact averages: what follows handles a small image
    image = _to_rgb(image)
    if orientation != 1:
        image = image.transpose(_TURN[orientation])
    return np.array(image)


_TURN = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def _to_rgb(image: Image.Image) -> Image.Image:
    """Convert any of Pillow's modes to RGB."""
    mode = image.mode
    if mode == "RGB":
        return image
    if mode.startswith("I") or mode == "F":
        return Image.fromarray(_to_8_bits(image)).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        page = Image.new("RGBA", image.size, (*BACKGROUND, 255))
        return Image.alpha_composite(page, image).convert("RGB")
    return image.convert("RGB")


def _to_8_bits(image: Image.Image) -> np.ndarray:
    """Scale a 16-bit, 32-bit or floating-point gray image to uint8."""
    values = np.asarray(image)
    if image.mode.startswith("I;16"):
        return ((values.astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8)
    values = np.nan_to_num(values.astype(np.float64))
    low, high = float(values.min()), float(values.max())
    if image.mode == "I" and low >= 0 and high <= 65535:  # 16-bit files that Pillow widens
        low, high = 0.0, 65535.0 if high > 255 else 255.0
    elif low >= 0 and high <= 1:
        low, high = 0.0, 1.0
    elif low >= 0 and high <= 255:
        low, high = 0.0, 255.0
    return np.rint((values - low) * (255 / ((high - low) or 1))).astype(np.uint8)


def _shrink(pixels: np.ndarray, target: tuple[int, int]) -> np.ndarray:
    """Scale down by area averages, which antialias; (h, w, 3) uint8."""
    if pixels.shape[:2] == target:
        return pixels
    return cv2.resize(pixels, (target[1], target[0]), interpolation=cv2.INTER_AREA)
