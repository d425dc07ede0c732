"""Folders of images: list them, decode them as they are meant to be seen."""

import contextlib
import errno
import os
import re
import threading
import warnings
from collections.abc import Iterator
from io import BytesIO
from typing import BinaryIO, NamedTuple

import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError

from data.images.archives import open_file
from data.images.limits import (
    END_OF_JPEG,
    TooLarge,
    UnreadableImage,
    check_declared,
    check_file,
    in_time,
    remarks_caught,
)
from data.images.modes import (
    orientation,
    png_damage,
    read_tiff,
    to_rgb,
    upright,
    upright_size,
    without_side_notes,
)

# Pillow would also run Ghostscript on an EPS file that calls itself .jpg. Photographs come first.
Image.init()
_FORMATS = [
    name
    for name in (
        *("JPEG", "PNG", "MPO", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF", "DIB"),
        *("TGA", "ICO"),
    )
    if name in Image.OPEN
]


class Decoded(NamedTuple):
    """A decoded image.

    image : uint8 (h, w, 3), RGB, upright, its long side capped.
    image_size : height and width of the upright image before the cap.
    """

    image: np.ndarray
    image_size: tuple[int, int]


def read_size(path: str | os.PathLike) -> tuple[int, int]:
    """Return the upright height and width from an image's header, mostly without decoding it.

    Raises UnreadableImage as `decode` does, for what the header tells.
    """
    with as_stored(path) as image:
        return upright_size(image)


@contextlib.contextmanager
def as_stored(path: str | os.PathLike) -> Iterator[Image.Image]:
    """Open an image by Pillow, as it is stored; UnreadableImage also for what goes wrong inside."""
    with _reasons(), open_file(path) as file:
        yield _open(file)


class OpenImage:
    """An image of which the header is read, and the pixels are not yet; made by `open_image`.

    size : height and width of the upright image.
    remark : what the decoder says of an image that is damaged inside, and shown as far as it can be
        decoded; empty before `decode`, and where nothing is wrong.
    """

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._image = _open(BytesIO(data))
        self.size = upright_size(self._image)
        self.remark = ""

    def decode(self, reduction: int = 1, max_side: int = 0) -> tuple[np.ndarray, int]:
        """Decode it, once, to uint8 (h, w, 3); return by what its sides were divided, too.

        reduction : 1, 2, 4 or 8. Of a plain JPEG only that share of its DCT is decoded, at a
            fraction of the time, and its sides are divided by it, rounded up; one that would not
            fit into memory is reduced further. Any other image is decoded whole, with reduction 1.
        max_side : as for `decode`.
        """
        target = capped_size(self.size, max_side)
        damage = png_damage(self._data) if self._image.format == "PNG" else ""
        remarks = [damage] if damage else []
        with _reasons(), in_time(self.size[0] * self.size[1]), remarks_caught(remarks):
            plain = _is_plain(self._image, self._data)
            reduction = self._reduction(reduction if plain else 1, target, plain)
            # beyond four times the target, decoding at a smaller scale is faster
            plain = plain and max(self.size) < 4 * max(target)
            pixels = _by_opencv(self._data, self._image.size, reduction) if plain else None
            if pixels is None:
                reduction = 1
                pixels = _decode_any(self._image, target, self._data)
            self._data = b""
            if reduction == 1 and pixels.shape[:2] != target:
                pixels = cv2.resize(pixels, target[::-1], interpolation=cv2.INTER_AREA)
        self.remark = "; ".join(dict.fromkeys(remarks))[:200]
        return pixels, reduction

    def _reduction(self, reduction: int, target: tuple[int, int], plain: bool) -> int:
        """Return the reduction at which the image fits into memory; TooLarge where none does."""
        turned = orientation(self._image) != 1
        while True:
            scale = max(reduction, _draft_scale(self._image, target))
            try:
                check_declared(self._image, self._data, scale, target, turned)
                return reduction
            except TooLarge:
                if scale >= 8 or not plain:
                    raise
                reduction *= 2

    def jpeg(self) -> np.ndarray | None:
        """Return the file, uint8 (bytes,), if it is a JPEG that every decoder knows, else None.

        That is a baseline JPEG in YCbCr, upright and complete. Only its header was read, so what
        follows may still be damaged.
        """
        with _reasons():
            known = _is_plain(self._image, self._data) and _is_baseline(self._image)
        return np.frombuffer(self._data, np.uint8) if known else None


def open_image(path: str | os.PathLike) -> OpenImage:
    """Read an image file and its header; UnreadableImage as for `decode`.

    Its size decides how it is cut, and that how much of it has to be decoded.
    """
    with _reasons():
        with open_file(path) as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(0)
            check_file(size, file.read(16))
            file.seek(0)
            data = file.read(size)  # without, what is buffered is joined to it, in a copy
        return OpenImage(data)


def decode(path: str | os.PathLike, max_side: int = 0) -> Decoded:
    """Decode an image as Pillow shows it, upright, in RGB.

    EXIF orientation is applied; colour profiles are not. Of an animation the first frame is taken.
    Palette, CMYK, grayscale, 1-bit and 16-bit images become 8-bit RGB; 16 bits are scaled by
    255/65535, not clipped; gray images of 32 bits or floating point are scaled from [0, 1],
    [0, 255], or else from their own range. Behind transparent pixels there is white, as on a page.

    path : the image file. Its content decides, not its name: a PNG named `.JPEG` is fine.
    max_side : the long side's cap in pixels. A larger image is scaled down by area averages, each
        side to its rounded share, at least 1; a smaller image is left alone. 0: never scale.

    UnreadableImage: missing, empty, truncated, not an image, not permitted, or
    larger than `data.images.limits` allow.
    """
    image = open_image(path)
    return Decoded(image.decode(max_side=max_side)[0], image.size)


@contextlib.contextmanager
def _reasons() -> Iterator[None]:
    """Turn whatever goes wrong with an image file into UnreadableImage with a reason."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's, of damaged EXIF data and the like
            yield
    except UnreadableImage:
        raise
    except Exception as error:  # decoders meet any garbage, and raise anything
        raise UnreadableImage(_why(error)) from None


def _why(error: Exception) -> str:
    """Return an exception's reason in one line."""
    if isinstance(error, UnidentifiedImageError):  # an OSError, too
        return "not an image of a known format"
    if isinstance(error, MemoryError):
        return "not enough memory to decode it"
    text = " ".join(str(error).split()) or type(error).__name__
    text = re.sub(r" at 0x[0-9a-f]+", "", text)  # the same file gives the same reason
    if not isinstance(error, OSError):
        return f"damaged ({text})"
    plain = {errno.EACCES: "permission denied", errno.ENOENT: "no such file or folder"}
    return text if error.errno is None else plain.get(error.errno, str(error.strerror).lower())


_pillow_limit = threading.Lock()


@contextlib.contextmanager
def _own_limit() -> Iterator[None]:
    """Have the limits of this package instead of Pillow's."""
    with _pillow_limit:
        theirs, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = theirs


def _open(file: BinaryIO) -> Image.Image:
    """Open an image, with the limits of this package instead of Pillow's."""
    if not file.read(1):
        raise UnreadableImage("empty file")
    file.seek(0)
    with _own_limit():
        try:
            image = Image.open(file, formats=_FORMATS)
            if image.format == "TIFF" and _has_wide_planes(image):
                image = _open_odd(file)
        except Exception:  # Pillow's of a damaged or large note in a PNG are of several kinds
            image = _open_odd(file)
    # a JPEG may be decoded at a smaller scale; it is checked again when that is known
    check_declared(image, reduction=8 if image.format in ("JPEG", "MPO") else 1)
    if image.format == "TIFF":
        with _own_limit(), in_time(image.width * image.height), remarks_caught([]):
            image.load()  # which turns it: before, its size and its orientation disagree
    return image


def _has_wide_planes(image: Image.Image) -> bool:
    """Whether a TIFF holds colours of 16 bits plane by plane, which Pillow mixes up."""
    tags = image.tag_v2
    return tags.get(284) == 2 and tags.get(277, 1) > 1 and max(tags.get(258, (1,))) > 8


def _open_odd(file: BinaryIO) -> Image.Image:
    """Open what Pillow refuses and is sound; or raise its error."""
    stripped = without_side_notes(file)
    if stripped is not None:
        return Image.open(stripped, formats=["PNG"])
    image = read_tiff(file)
    if image is None:
        file.seek(0)
        return Image.open(file, formats=_FORMATS)
    return image


def _draft_scale(image: Image.Image, target: tuple[int, int]) -> int:
    """By what Pillow divides a JPEG's sides while decoding it for a target, `_decode_any`."""
    if image.format not in ("JPEG", "MPO"):
        return 1
    scale = max(image.size) // (2 * max(target))
    return next((step for step in (8, 4, 2) if scale >= step), 1)


def capped_size(size: tuple[int, int], max_side: int) -> tuple[int, int]:
    """Return (height, width) with the long side at most `max_side`; 0: no cap."""
    if max_side <= 0 or max(size) <= max_side:
        return size
    scale = max_side / max(size)
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def _decode_any(image: Image.Image, target: tuple[int, int], data: bytes) -> np.ndarray:
    """Decode by Pillow to upright uint8 RGB, at a whole fraction of at least twice the target."""
    enough = 2 * max(target)
    turn = orientation(image)
    if image.format in ("JPEG", "MPO"):
        image = _load_jpeg(image, target, data)
    else:
        try:
            image.load()
        except (SyntaxError, ValueError):  # a side note after a PNG's pixels
            stripped = without_side_notes(BytesIO(data))
            if stripped is None:
                raise
            image = Image.open(stripped, formats=["PNG"])
            image.load()
    if isinstance(image, np.ndarray) and max(image.shape) < 2 * enough:
        pixels = image
    else:
        image = Image.fromarray(image) if isinstance(image, np.ndarray) else image
        pixels = to_rgb(image, max(1, max(image.size) // enough))
    return np.require(upright(pixels, turn), requirements=["C", "W"])


def _load_jpeg(
    image: Image.Image, target: tuple[int, int], data: bytes
) -> Image.Image | np.ndarray:
    """Decode a JPEG at a fraction of its size that is at least twice the target."""
    scale = _draft_scale(image, target)
    known = image.mode == "RGB" and data.endswith(END_OF_JPEG)  # as `draft` and `load` decode
    pixels = _by_opencv(data, image.size, scale) if known else None
    if pixels is not None:
        return pixels
    if scale > 1:
        image.draft(None, (2 * max(target),) * 2)
    image.load()
    with contextlib.suppress(cv2.error):  # of what is damaged, OpenCV prints what Pillow does not
        cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_REDUCED_GRAYSCALE_8)
    return image


# ---- JPEGs by OpenCV: Pillow's pixels in 2/3 of its time; both use libjpeg-turbo -----------------


def _is_plain(image: Image.Image, data: bytes) -> bool:
    """Tell a whole, upright, three-channel JPEG from everything else."""
    return (
        image.format == "JPEG"
        and image.mode == "RGB"
        and data.endswith(END_OF_JPEG)  # what is truncated Pillow tells from a whole image
        and orientation(image) == 1
    )


def _is_baseline(image: Image.Image) -> bool:
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


def _by_opencv(data: bytes, size: tuple[int, int], reduction: int) -> np.ndarray | None:
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
