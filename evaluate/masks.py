"""Masks from a shard folder or a folder of pictures, by the image's key without its suffix."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data.errors import UserError
from data.images.decode import UnreadableImage, read_size
from data.images.labels import Labelled
from data.images.listing import by_stem, key_path, list_images, stem
from data.masks.format import Status
from data.masks.picture import read_mask
from data.masks.read import MaskShards
from evaluate.results import image_bar

Mask = tuple[np.ndarray, tuple[int, int] | None]
"""uint8 (h, w), and (height, width) of its image; None for a picture: its own size."""


class NoMask(Exception):
    """This image has no mask that can be used; the message says why."""


@dataclass
class Masks:
    """A folder of masks.

    names : stems -> keys
    shards : None: they are pictures
    below : the folder below IMAGES, such as `val`, that holds the images whose masks are cut; they
        may have been computed for IMAGES or for that folder
    """

    folder: Path
    names: dict[str, str]
    shards: MaskShards | None = None
    below: str = ""

    @property
    def method(self) -> str | None:
        """What made them, where that is recorded."""
        return None if self.shards is None else self.shards.method

    def read(self, name: str) -> Mask:
        """The mask of one stem; raises `NoMask` with the reason, as a shard records it."""
        key = self.names[name]
        if self.shards is None:
            try:
                return read_mask(self.folder / key), None
            except UnreadableImage as error:
                raise NoMask(f"{Path(key).name} is no mask ({error})") from None
        row = self.shards.find(key)
        if self.shards.status(row) > Status.FLAT:
            reason = self.shards.error(row) or "no reason recorded"
            raise NoMask(f"has no mask in {self.folder}: {reason}")
        return self.shards.read(row), self.shards.image_size(row)

    def find(self, key: str) -> str | None:
        """The name of an image's mask, or None."""
        plain = stem(key)
        return next((n for n in (stem(self.key_of(key)), plain) if n in self.names), None)

    def key_of(self, key: str) -> str:
        """The key of an image in IMAGES."""
        return f"{self.below}/{key}" if self.below else key

    def cut(
        self,
        key: str,
        image_size: tuple[int, int],
        size: int,
        box: tuple[float, float, float, float] | None = None,
    ) -> np.ndarray:
        """An image's mask in a box of it, by default its centre crop; `NoMask` says why not.

        box : (top, left, height, width) in pixels of the image. Returns uint8 (size, size).
        """
        name = self.find(key)
        if name is None:
            raise NoMask("has no mask")
        values, of_size = self.read(name)
        if of_size is not None and of_size != tuple(image_size):
            theirs = f"{of_size[1]}x{of_size[0]}"
            raise NoMask(f"is {image_size[1]}x{image_size[0]}, its mask is of {theirs}")
        return crop_mask(values, image_size, size, box)

    def foregrounds(
        self, images: Labelled, size: int, threshold: int, title: str
    ) -> Iterator[tuple[int, np.ndarray | str]]:
        """Yield (row, foreground in the centre crop, bool (size, size)), or why there is none."""
        with image_bar(len(images), title) as bar:
            for row, key in enumerate(images.keys):
                try:
                    image_size = read_size(key_path(images.root, key))
                    mask = self.cut(key, image_size, size) >= threshold
                    empty = f"has an empty mask: nothing from {threshold} up"
                    yield row, mask if mask.any() else empty
                except (NoMask, UnreadableImage) as reason:
                    yield row, str(reason)
                bar.update()


def open_masks(folder: str | Path, argument: str = "MASKS", below: str = "") -> Masks:
    """Open a folder of shards, as `saliency-compute` writes them, or of pictures of any kind.

    argument : names it in errors; below : of `Masks`
    """
    folder = Path(folder)
    if next(folder.glob("shard-*.h5"), None) is not None:
        shards = MaskShards(folder)
        return Masks(folder, by_stem(folder, shards.keys), shards, below)
    try:
        names = list_images(folder)
    except UserError as error:
        raise UserError(
            f"{argument} {folder} holds no mask shards (shard-*.h5) and no pictures; name a "
            f"folder that does ({error.message.rstrip('.')})."
        ) from None
    return Masks(folder, by_stem(folder, names), None, below)


def crop_mask(
    mask: np.ndarray,
    image_size: tuple[int, int],
    size: int,
    box: tuple[float, float, float, float] | None = None,
) -> np.ndarray:
    """The part of a mask, at whatever resolution, that a crop of its image shows.

    mask : uint8 (h, w); image_size : (height, width) of its image; box : the crop's, (top, left,
    height, width) in pixels of the image, by default the centre crop's. Returns uint8 (size, size).
    """
    from data.images.crop import box_within, evaluation_size, sample_box  # needs torch

    if box is None:
        target = evaluation_size(*image_size, size)
        per_row, per_column = image_size[0] / target[0], image_size[1] / target[1]
        top = round((target[0] - size) / 2) * per_row
        left = round((target[1] - size) / 2) * per_column
        box = (top, left, size * per_row, size * per_column)
    return sample_box(mask, box_within((0, 0, *mask.shape), box, image_size), (size, size))


def names_of(folders: list[Path]) -> list[str]:
    """The shortest tails of the paths that tell the folders apart: the rows and columns' names."""
    paths = [folder.resolve().parts for folder in folders]
    for depth in range(1, max(map(len, paths)) + 1):
        tails = ["/".join(parts[-depth:]) for parts in paths]
        if len(set(tails)) == len(set(paths)):
            break
    return tails
