"""Backgrounds to paste foregrounds on: the registry of their sources, and what all share.

A source is a class with `__len__` and `read(number) -> uint8 (h, w, 3)`, in a module of its own,
and a line below; nothing else names it. It is opened in the training process, and then pickled or
forked to the loading processes.
"""

from __future__ import annotations

import importlib
import math
import os
from collections import OrderedDict
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple, Protocol

from data.errors import UserError
from data.keys import printable

if TYPE_CHECKING:
    import numpy as np

_SKIPPED = 100  # so many unreadable ones in a row mean that the folder is gone


class Background(NamedTuple):
    """A line of the registry.

    source : "module:Class"; None: one random gray level, which needs no pictures (`gray_level`),
        or a partner.
    about : one line for lists.
    pool : what the class is opened with, in words; None: it takes nothing.
    partner : the background is another image of the data set (`data.backgrounds.partner`): "free"
        of its object, or with the foreground "over" its object.
    """

    source: str | None
    about: str
    pool: str | None = None
    partner: str | None = None


BACKGROUNDS: dict[str, Background] = {
    "grayscale": Background(None, "one random gray level, floor(255 U), on all channels"),
    "texture": Background(
        "data.backgrounds.texture:TextureFolder", "images of a folder", "a folder of textures"
    ),
    "imagenet": Background(
        "data.backgrounds.pool:BackgroundPool",
        "crops without salient objects",
        "a pool made by `mask-shards backgrounds`",
    ),
    "constant": Background("data.backgrounds.constant:Constant", "ImageNet's mean colour, always"),
    "mask-swap": Background(
        None, "another image of the data set, its object covered by its surroundings", None, "free"
    ),
    "box-swap": Background(
        None, "another image, the object's box pasted on its object's box", None, "over"
    ),
}


class BackgroundSource(Protocol):
    """A numbered set of background images."""

    def __len__(self) -> int: ...

    def read(self, number: int) -> np.ndarray:
        """Return background `number` as uint8 (h, w, 3), RGB."""
        ...


class UnreadableBackground(UserError):
    """One background cannot be read; others may.

    what : the kind of it, such as "texture". key, root : which it is, and where.
    """

    def __init__(self, what: str, key: str, root: str | os.PathLike, error: object) -> None:
        where = f"{what} {key!r} in {os.fspath(root)!r}"
        super().__init__(f"the {where} cannot be read ({error}); remove it.")
        self.name = f"{printable(key)}: {error}"


class Kept:
    """Pictures that were made lately, up to so many bytes in this process; not to be written to."""

    def __init__(self, most: int) -> None:
        self.most, self._bytes = most, 0
        self._pictures: OrderedDict[int, np.ndarray] = OrderedDict()

    def get(self, number: int, make: Callable[[int], np.ndarray]) -> np.ndarray:
        """Return picture `number`, made by `make(number)` unless it is here."""
        if number in self._pictures:
            self._pictures.move_to_end(number)
            return self._pictures[number]
        picture = self._pictures[number] = make(number)
        picture.setflags(write=False)
        self._bytes += picture.nbytes
        while self._bytes > self.most and len(self._pictures) > 1:
            self._bytes -= self._pictures.popitem(last=False)[1].nbytes
        return picture

    def __reduce__(self) -> tuple:  # each process keeps its own
        return Kept, (self.most,)


def background_of(pool: str) -> str:
    """Return whose pool it is: crops without salient objects lie in one HDF5 file."""
    return "imagenet" if pool.endswith((".h5", ".hdf5")) else "texture"


def check_background(name: str, pool: str | os.PathLike | None) -> None:
    """Refuse a name that is not registered, and a pool that is missing or of no use (UserError)."""
    if name not in BACKGROUNDS:
        raise UserError(f"background is {name!r}; choose one of {', '.join(BACKGROUNDS)}.")
    needed = BACKGROUNDS[name].pool
    if needed is not None and not pool:
        raise UserError(f"background is {name!r} and background_pool is missing; give {needed}.")
    if needed is None and pool:
        others = " or ".join(other for other, line in BACKGROUNDS.items() if line.pool)
        raise UserError(
            f"background_pool is {os.fspath(pool)!r} and background is {name!r}, which takes none; "
            f"set background to {others}, or leave the pool out."
        )


def open_source(name: str, pool: str | os.PathLike | None = None) -> BackgroundSource | None:
    """Open a registered source; None for a random gray level, which needs none."""
    check_background(name, pool)
    line = BACKGROUNDS[name]
    if line.source is None:  # a partner is read by whoever knows the data set
        return None
    module, _, kind = line.source.partition(":")
    source = getattr(importlib.import_module(module), kind)
    return source() if line.pool is None else source(pool)


def gray_level(uniform: float) -> int:
    """Return the level of a grayscale background, floor(255 U), as the DiLo authors draw it."""
    return math.floor(255 * uniform)


def choose(source: BackgroundSource, uniform: float) -> int:
    """Return which background a uniform number in [0, 1) selects."""
    return min(int(uniform * len(source)), len(source) - 1)


def read_chosen(source: BackgroundSource, uniform: float) -> tuple[np.ndarray, list[str]]:
    """Read the background that `uniform` selects, or else the next one that can be read.

    Returns it, uint8 (h, w, 3), and the names of those skipped; the UnreadableBackground of the
    last one if a hundred in a row cannot be read.
    """
    first, skipped = choose(source, uniform), []
    for number in range(first, first + min(len(source), _SKIPPED)):
        try:
            return source.read(number % len(source)), skipped
        except UnreadableBackground as error:
            skipped.append(error.name)
            last = error
    raise last


def cover_box(
    background_size: tuple[int, int], image_size: tuple[int, int], offset: tuple[float, float]
) -> tuple[float, float, float, float]:
    """Return the part of a background that lies behind an image.

    The background is scaled up, never down, just to cover the image, keeping its aspect ratio, and
    cropped at a random offset (DiLo, 5.2, and the authors' code).

    background_size, image_size : (height, width), pixels.
    offset : uniform numbers in [0, 1) for the crop's top and left.

    Returns (top, left, height, width) in pixels of the background.
    """
    scale = cover_scale(background_size, image_size)
    height, width = image_size[0] / scale, image_size[1] / scale
    top = offset[0] * max(0.0, background_size[0] - height)
    left = offset[1] * max(0.0, background_size[1] - width)
    return top, left, height, width


def cover_scale(background_size: tuple[int, int], image_size: tuple[int, int]) -> float:
    """Return by how much a background is scaled up to cover an image, at least 1."""
    return max(1.0, image_size[0] / background_size[0], image_size[1] / background_size[1])
