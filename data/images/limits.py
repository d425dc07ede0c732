"""What an image may cost, memory and time, and what is caught while it is decoded.

A worker holds at most 1 GB: some 250 MB of libraries, or 440 with PyTorch, and an image.
"""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator

from PIL import Image

END_OF_JPEG = b"\xff\xd9"
MAX_PIXELS = 250_000_000
MAX_BYTES = 640_000_000
"""That decoding an image may take, at the scale at which it is decoded."""
BESIDE_TORCH = 520_000_000
"""The same in a process that holds PyTorch, which takes more than the others' libraries."""
SECONDS = float(os.environ.get("DILO_IMAGE_SECONDS", "10"))
"""That decoding an image may take; set by the environment's DILO_IMAGE_SECONDS."""

MAX_SIDE = 16_384
"""Pixels of a mask's long side. All masks of a shard are stored as squares of its longest side. A
strip of this length takes each worker 0.5 GB and each mask of its shard 0.2 s, a strip twice as
long 2 GB and a second; beyond 65,535 HDF5 does not store it. The longest photographs of today's
cameras are this long."""

_QUICK = 4_000_000  # pixels of an image that needs no clock
_PASSES = 1e8 * 100  # pixels times scans of a JPEG that libjpeg goes through in some seconds
_BY_FORMAT = {  # bytes a pixel, as measured: these libraries hold several copies of an image
    **{"WEBP": 16, "AVIF": 14, "JPEG2000": 14, "BMP": 8, "DIB": 8, "TGA": 8},
}
_BY_MODE = {"1": 1, "L": 1, "P": 1, "I;16": 2, "I;16B": 2, "I;16L": 2}  # others: 4


class UnreadableImage(Exception):
    """An image that cannot be decoded; its text is one short sentence that says why."""


class TooLarge(UnreadableImage):
    """An image costs more than its limits; the text says what."""


def most_bytes() -> int:
    """Return what decoding an image may take in this process."""
    return BESIDE_TORCH if "torch" in sys.modules else MAX_BYTES


def check_file(size: int, begin: bytes) -> None:
    """Refuse, by `TooLarge`, a file whose bytes would not fit, by its size and first 16 bytes.

    Of any but an uncompressed format, decoders may hold parts twice.
    """
    raw = begin[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+") or begin[:2] in (b"BM", b"P6")
    limit = most_bytes() if raw else most_bytes() // 2
    if size > limit:
        raise TooLarge(f"a file of {size / 1e9:.1f} GB, more than the limit of {limit / 1e9:.2g}")


def check_memory(needed: int, what: str) -> None:
    """Refuse, by `TooLarge`, what takes so many bytes to decode, where that is too much."""
    if needed > (limit := most_bytes()):
        sizes = f"{needed / 1e9:.2f} GB to decode, more than the limit of {limit / 1e9:.2f}"
        raise TooLarge(f"{what} take {sizes}")


def check_declared(
    image: Image.Image,
    data: bytes | None = None,
    reduction: int = 1,
    target: tuple[int, int] = (1, 1),
    turned: bool = False,
) -> None:
    """Refuse, by `TooLarge`, an opened image that would take too much memory or time.

    data : the file of a JPEG, whose scans are counted.
    reduction : by what a JPEG's sides are divided while it is decoded.
    target : the height and width that are wanted of it; turned : from how it is stored.
    """
    width, height = image.size
    shown = f"{width}x{height} pixels"
    if width * height > MAX_PIXELS:
        raise TooLarge(f"{shown}, more than the limit of {MAX_PIXELS:,}")
    rows, columns = -(-height // reduction), -(-width // reduction)
    factor = max(1, max(rows, columns) // (2 * max(target)))
    result = 3 * (rows // factor) * (columns // factor)
    jpeg = image.format in ("JPEG", "MPO")
    if jpeg and image.mode == "RGB" and (data is None or data[-2:] == END_OF_JPEG):
        pixel, result = 6, 0  # OpenCV's and its copy
    else:
        pixel = _BY_FORMAT.get(image.format or "", _BY_MODE.get(image.mode, 4))
        result *= 1 + turned
    # Pillow has a pointer for each row; a row is the least that is converted at a time
    needed = rows * (columns * pixel + 8) + 8 * columns + result + len(data or b"")
    if jpeg and "progressive" in image.info:
        needed += _coefficients(image)
        scans = data.count(b"\xff\xda") if data is not None else 0
        if scans * width * height > _PASSES:
            raise TooLarge(f"{shown} in {scans:,} scans would take longer than {SECONDS:g} s")
    check_memory(needed, f"{shown} of {image.format}")


def _coefficients(image: Image.Image) -> int:
    """Bytes of a progressive JPEG's coefficients, which libjpeg holds all at once."""
    layers = [(across, down) for _, across, down, _ in image.layer]
    most = max(across for across, _ in layers) * max(down for _, down in layers)
    return round(2 * image.width * image.height * sum(a * d / most for a, d in layers))


@contextlib.contextmanager
def in_time(pixels: int) -> Iterator[None]:
    """End the block by `TooLarge` after `SECONDS`; in the main thread, which alone has signals.

    Pillow's decoders are fed piece by piece, and interrupted between two of them. What is below
    four megapixels takes no time worth a clock. A clock that runs already goes on afterwards.
    """
    if pixels < _QUICK or threading.current_thread() is not threading.main_thread():
        yield
        return

    decoding = True

    def ring(number: int, frame: object) -> None:
        if decoding:
            raise TooLarge(f"decoding took longer than {SECONDS:g} s")

    handler = signal.signal(signal.SIGALRM, ring)
    # again and again: where Python frees objects, an exception is printed and forgotten
    rest, interval = signal.setitimer(signal.ITIMER_REAL, SECONDS, SECONDS / 10)
    try:
        yield
    finally:
        decoding = False
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)
        if rest:
            signal.setitimer(signal.ITIMER_REAL, rest, interval)


_STDERR = 2
_one_error = threading.Lock()  # the process has one standard error


@contextlib.contextmanager
def remarks_caught(remarks: list[str]) -> Iterator[None]:
    """Append to `remarks` what the block's C code prints to standard error, a line each.

    Decoders go on behind what is damaged, and print no more than its kind.
    """
    with _one_error:
        try:
            terminal = os.dup(_STDERR)
        except OSError:  # closed: nothing is printed
            yield
            return
        out, into = os.pipe()
        try:
            os.set_blocking(out, False)
            os.set_blocking(into, False)  # what a full pipe does not hold is dropped
            os.dup2(into, _STDERR)
            try:
                yield
            finally:
                os.dup2(terminal, _STDERR)
            with contextlib.suppress(BlockingIOError):  # there is nothing
                text = os.read(out, 4096).decode("utf-8", "replace")
                remarks += filter(None, (" ".join(line.split()) for line in text.splitlines()))
        finally:
            for descriptor in (terminal, out, into):
                os.close(descriptor)
