"""What a worker does: a few images in, a row of results for each out."""

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache, partial
from typing import NamedTuple

import numpy as np

from data.images.decode import UnreadableImage, open_image, read_size
from data.images.listing import key_path
from data.masks.format import Status, status_of
from data.masks.write import Chunk, ChunkEncoder

MapFunction = Callable[[np.ndarray], dict[str, np.ndarray]]
"""An image, uint8 (h, w, 3), to float maps (h, w) in [0, 1] by method."""

MAX_SIDE = 16_384
"""Pixels. All masks of a shard are stored as squares of its longest side. A strip of this length
takes each worker 0.5 GB and each mask of its shard 0.2 s, a strip twice as long 2 GB and a second;
beyond 65,535 HDF5 does not store it. The longest photographs of today's cameras are this long."""


class Row(NamedTuple):
    """An image's results, as a worker sends them; sizes are (height, width).

    masks : of each method, with its status: a mask may be all zero by one and not by another.
    status, error : why there is none. Of an image that is damaged inside, `error` is a remark.
    """

    masks: dict[str, tuple[Chunk, Status]]
    image_size: tuple[int, int] = (0, 0)
    mask_size: tuple[int, int] = (0, 0)
    status: Status = Status.FAILED
    error: str = ""


def compute_rows(
    images: str,
    keys: list[str],
    map_function: MapFunction,
    methods: tuple[str, ...],
    max_side: int,
    canvas: int,
    compression: str,
) -> list[Row]:
    """Decode, compute and compress some images. An image that fails is a row with a reason."""
    encoder = _encoder(canvas, compression)
    return [
        _compute_row(key_path(images, key), map_function, methods, max_side, encoder)
        for key in keys
    ]


def _compute_row(
    path: str,
    map_function: MapFunction,
    methods: tuple[str, ...],
    max_side: int,
    encoder: ChunkEncoder,
) -> Row:
    try:
        opened = open_image(path)
        image, _ = opened.decode(max_side=max_side)
    except UnreadableImage as reason:
        return Row({}, status=Status.UNREADABLE, error=str(reason))
    image_size = opened.size
    if reason := too_long(image.shape[:2]):
        return Row({}, image_size, error=reason)
    try:
        maps = map_function(image)
        masks = {name: compressed(maps[name], encoder) for name in methods}
    except Exception as error:  # one odd image must not end hours of work
        return Row({}, image_size, error=reason_of(error))
    return Row(masks, image_size, image.shape[:2], error=opened.remark)


@lru_cache(maxsize=2)  # not more: with --max-side 0 each shard has a canvas of its own
def _encoder(canvas: int, compression: str) -> ChunkEncoder:
    return ChunkEncoder(canvas, compression)


def compressed(saliency: np.ndarray, encoder: ChunkEncoder) -> tuple[Chunk, Status]:
    """Return a map, float in [0, 1], as a shard stores it."""
    mask = to_uint8(saliency)
    return encoder.encode(mask), status_of(mask)


def to_uint8(saliency: np.ndarray) -> np.ndarray:
    """Quantise a map, float in [0, 1], to uint8, halves rounded up as MATLAB does."""
    return (saliency * 255 + 0.5).astype(np.uint8)


def reason_of(error: Exception) -> str:
    """Return an exception as the reason in a row: its type and message in one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())


def too_long(size: tuple[int, int]) -> str:
    """Say that a mask of this (height, width) is too long; empty where it is not."""
    height, width = size
    if max(height, width) <= MAX_SIDE:
        return ""
    return f"{width}x{height} pixels, longer than {MAX_SIDE:,}: give it --max-side"


def longest_side(images: str, keys: Iterable[str]) -> int:
    """Return the longest side among some images, at least 1, from their headers."""
    with ThreadPoolExecutor(8) as pool:  # a file system far away answers several at a time
        return max(pool.map(partial(_long_side, images), keys))


def _long_side(images: str, key: str) -> int:
    """Return an image's longer side; 1 where it gets no mask, unreadable or too long."""
    try:
        size = read_size(key_path(images, key))
    except UnreadableImage:
        return 1
    return 1 if too_long(size) else max(1, *size)
