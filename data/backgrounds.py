"""Backgrounds to paste foregrounds on: folders of textures, pools of crops without salient objects.

(A third source, one random gray level, needs no file: see `gray_level`.)
"""

from __future__ import annotations

import math
import os
from collections import OrderedDict
from pathlib import Path
from typing import Protocol

import h5py
import numpy as np

from data.errors import UserError
from data.images.decode import UnreadableImage, decode, key_path, list_images
from data.keys import printable

_PASSED_OVER = 100  # so many unreadable ones in a row mean that the folder is gone
POOL_FORMAT = "dilo-background-pool"
POOL_VERSION = 1


class BackgroundSource(Protocol):
    """A numbered set of background images."""

    def __len__(self) -> int: ...

    def read(self, number: int) -> np.ndarray:
        """Return background `number` as uint8 (h, w, 3), RGB."""
        ...


def gray_level(uniform: float) -> int:
    """Return the level of a grayscale background, floor(255 U), as the DiLo authors draw it."""
    return math.floor(255 * uniform)


def choose(source: BackgroundSource, uniform: float) -> int:
    """Return which background a uniform number in [0, 1) selects."""
    return min(int(uniform * len(source)), len(source) - 1)


class UnreadableBackground(UserError):
    """One background cannot be read; others may."""

    def __init__(self, name: str, sentence: str) -> None:
        super().__init__(sentence)
        self.name = name


def read_chosen(source: BackgroundSource, uniform: float) -> tuple[np.ndarray, list[str]]:
    """Read the background that `uniform` selects, or else the next one that can be read.

    Returns
    -------
    The background, uint8 (h, w, 3), and the names of those passed over.

    Raises
    ------
    UserError
        A hundred in a row cannot be read.
    """
    first, passed_over = choose(source, uniform), []
    for number in range(first, first + min(len(source), _PASSED_OVER)):
        try:
            return source.read(number % len(source)), passed_over
        except UnreadableBackground as error:
            passed_over.append(error.name)
            last = error
    raise last


def cover_box(
    background_size: tuple[int, int], image_size: tuple[int, int], offset: tuple[float, float]
) -> tuple[float, float, float, float]:
    """Return the part of a background that lies behind an image.

    The background is scaled up, never down, just to cover the image, keeping its aspect ratio, and
    cropped at a random offset (DiLo, 5.2, and the authors' code).

    Parameters
    ----------
    background_size, image_size : (height, width), pixels.
    offset : uniform numbers in [0, 1) for the crop's top and left.

    Returns
    -------
    (top, left, height, width) in pixels of the background
    """
    scale = cover_scale(background_size, image_size)
    height, width = image_size[0] / scale, image_size[1] / scale
    top = offset[0] * max(0.0, background_size[0] - height)
    left = offset[1] * max(0.0, background_size[1] - width)
    return top, left, height, width


def cover_scale(background_size: tuple[int, int], image_size: tuple[int, int]) -> float:
    """Return by how much a background is scaled up to cover an image, at least 1."""
    return max(1.0, image_size[0] / background_size[0], image_size[1] / background_size[1])


class TextureFolder:
    """Any folder of images as backgrounds, at any depth: VisTex's layout, DTD's, one's own.

    A texture that was read lately is kept in memory, up to `cache_bytes` in every process, so that
    a set as small as VisTex is decoded once.

    Raises
    ------
    UserError
        No such folder or no images in it; on `read`, an image that cannot be decoded.
    """

    def __init__(self, root: str | os.PathLike, cache_bytes: int = 256 * 2**20) -> None:
        self.root = Path(root)
        self.keys = list_images(root)
        self.cache_bytes = cache_bytes
        self._cache: OrderedDict[int, np.ndarray] = OrderedDict()
        self._cached = 0

    def __len__(self) -> int:
        return len(self.keys)

    def read(self, number: int) -> np.ndarray:
        """Return texture `number` as uint8 (h, w, 3), not to be written to."""
        if number in self._cache:
            self._cache.move_to_end(number)
            return self._cache[number]
        key = self.keys[number]
        try:
            image = decode(key_path(self.root, key)).image
        except UnreadableImage as error:
            raise UnreadableBackground(
                f"{printable(key)}: {error}",
                f"the texture {key!r} in {str(self.root)!r} cannot be read ({error}); remove it.",
            ) from None
        image.setflags(write=False)
        self._cache[number] = image
        self._cached += image.nbytes
        while self._cached > self.cache_bytes and len(self._cache) > 1:
            self._cached -= self._cache.popitem(last=False)[1].nbytes
        return image

    def __reduce__(self) -> tuple:
        return TextureFolder, (self.root, self.cache_bytes)


class BackgroundPool:
    """A pool of crops without salient objects, made by `mask-shards backgrounds`.

    One HDF5 file; the crops lie in it uncompressed, so that reading one is a single copy. Opened
    lazily by each process, picklable, safe to fork.

    Raises
    ------
    UserError
        No such file, or it is not a pool.
    """

    def __init__(self, path: str | os.PathLike) -> None:
        self.path = Path(path)
        with self._open() as file:
            attributes = file.attrs
            if attributes.get("format") != POOL_FORMAT:
                raise UserError(
                    f"{os.fspath(path)!r} is not a background pool; "
                    "make one by `mask-shards backgrounds IMAGES MASKS POOL`."
                )
            if int(attributes.get("format_version", -1)) != POOL_VERSION:
                raise UserError(
                    f"{os.fspath(path)!r} is a background pool of version "
                    f"{attributes.get('format_version')}, this program reads {POOL_VERSION}; "
                    "make it again."
                )
            self._count = int(file["crops"].shape[0])
            self.size = int(file["crops"].shape[1])
        if self._count == 0:
            raise UserError(f"the background pool {os.fspath(path)!r} is empty; make another.")
        self._crops: h5py.Dataset | None = None
        self._pid = os.getpid()

    def _open(self) -> h5py.File:
        try:
            return h5py.File(self.path, "r", locking=False)
        except FileNotFoundError:
            raise UserError(
                f"there is no background pool {str(self.path)!r}; "
                "make one by `mask-shards backgrounds IMAGES MASKS POOL`."
            ) from None
        except IsADirectoryError:
            raise UserError(
                f"the background pool {str(self.path)!r} is a folder; give the file that "
                "`mask-shards backgrounds IMAGES MASKS POOL` makes."
            ) from None
        except OSError as error:
            raise UserError(
                f"the background pool {str(self.path)!r} cannot be opened "
                f"({' '.join(str(error).split())}); make it again."
            ) from None

    def __len__(self) -> int:
        return self._count

    def read(self, number: int) -> np.ndarray:
        """Return crop `number` as uint8 (size, size, 3)."""
        if self._crops is None or self._pid != os.getpid():  # forked: not the parent's handle
            self._crops = self._open()["crops"]
            self._pid = os.getpid()
        try:
            return self._crops[number]
        except OSError as error:
            raise UserError(
                f"crop {number} of the background pool {str(self.path)!r} cannot be read "
                f"({' '.join(str(error).split())}); make the pool again."
            ) from None

    def __reduce__(self) -> tuple:
        return BackgroundPool, (self.path,)


def open_source(background: str, pool: str | os.PathLike | None) -> BackgroundSource | None:
    """Return the source of a `background` setting; None for "grayscale", which needs none."""
    if background == "grayscale":
        return None
    if background not in ("texture", "imagenet"):
        raise UserError(
            f"the background {background!r} is not known; choose grayscale, texture or imagenet."
        )
    if pool is None:
        what = "a folder of textures" if background == "texture" else "a pool of crops"
        raise UserError(f"the background {background!r} needs {what}; give it as background pool.")
    return TextureFolder(pool) if background == "texture" else BackgroundPool(pool)
