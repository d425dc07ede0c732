"""Masks from a shard folder or a folder of pictures, by the image's key without its suffix."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from data.errors import UserError
from data.images.decode import UnreadableImage, read_size
from data.images.listing import key_path, list_images
from data.masks.picture import read_mask
from evaluate.labelled import Labelled
from evaluate.results import image_bar

Mask = tuple[np.ndarray, tuple[int, int] | None]
"""uint8 (h, w), and (height, width) of its image; None for a picture: its own size."""


class NoMask(Exception):
    """This image has no mask that can be used; the message says why."""


def stem(key: str) -> str:
    """The key without its suffix: `n01440764/n01440764_18.JPEG` -> `n01440764/n01440764_18`.

    Letters are composed: macOS and Linux write names in different ways.
    """
    key = unicodedata.normalize("NFC", key)
    head, dot, tail = key.rpartition(".")
    return head if dot and head and "/" not in tail and not head.endswith("/") else key


class Masks:
    """A folder of masks; `names` maps stems to keys, and keys that share a stem are refused."""

    method: str | None = None

    def __init__(self, folder: Path, keys: Iterable[str]):
        self.folder = folder
        self.names: dict[str, str] = {}
        for key in keys:
            other = self.names.setdefault(stem(key), key)
            if other != key:
                raise UserError(
                    f"{folder}: '{other}' and '{key}' differ in their suffix alone, and masks are "
                    "matched to images without it; rename one of them."
                )

    def read(self, name: str) -> Mask:
        """The mask of one stem; raises `NoMask` with the reason."""
        raise NotImplementedError


class PictureMasks(Masks):
    """A folder of masks as pictures of any kind; subfolders belong to the key."""

    def __init__(self, folder: Path, argument: str = "MASKS"):
        try:
            names = list_images(folder)
        except UserError as error:
            raise UserError(
                f"{argument} {folder} holds no mask shards (shard-*.h5) and no pictures; name a "
                f"folder that does ({error.message.rstrip('.')})."
            ) from None
        super().__init__(folder, names)

    def read(self, name: str) -> Mask:
        """The mask of one stem; raises `NoMask` with the reason."""
        path = self.folder / self.names[name]
        try:
            return read_mask(path), None
        except UnreadableImage as error:
            raise NoMask(f"{path.name} is no mask ({error})") from None


class ShardedMasks(Masks):
    """A folder of mask shards, as `saliency-compute` writes them."""

    def __init__(self, folder: Path):
        from data.masks.read import MaskShards

        self.shards = MaskShards(folder)
        self.method = self.shards.method
        super().__init__(folder, self.shards.keys)

    def read(self, name: str) -> Mask:
        """The mask of one stem; raises `NoMask` with the reason recorded in the shard."""
        row = self.shards.find(self.names[name])
        if self.shards.status(row) >= 2:  # unreadable image or failed method: there is no mask
            reason = self.shards.error(row) or "no reason recorded"
            raise NoMask(f"has no mask in {self.folder}: {reason}")
        height, width = self.shards.image_size(row)
        return self.shards.read(row), (int(height), int(width))


def open_masks(folder: str | Path, argument: str = "MASKS") -> Masks:
    """Open a shard folder or a folder of pictures; `argument` names it in errors."""
    folder = Path(folder)
    if next(folder.glob("shard-*.h5"), None) is not None:
        return ShardedMasks(folder)
    return PictureMasks(folder, argument)


class MaskFinder:
    """Masks by image key, whether they were computed for IMAGES or for a folder below it.

    folder : the name of the images' folder below IMAGES, such as `val`; "" where there is none
    """

    def __init__(self, masks: Masks, folder: str = ""):
        self.masks = masks
        self.prefix = f"{folder}/" if folder else ""

    def name(self, key: str) -> str | None:
        """The mask's name for an image, or None."""
        plain = stem(key)
        return next((n for n in (self.prefix + plain, plain) if n in self.masks.names), None)

    def read(
        self,
        key: str,
        image_size: tuple[int, int],
        size: int,
        box: tuple[float, float, float, float] | None = None,
    ) -> np.ndarray:
        """The mask in a box of the image, by default its centre crop; `NoMask` says why not.

        box : (top, left, height, width) in pixels of the image. Returns uint8 (size, size).
        """
        name = self.name(key)
        if name is None:
            raise NoMask("has no mask")
        values, of_size = self.masks.read(name)
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
                    mask = self.read(key, image_size, size) >= threshold
                    yield row, mask if mask.any() else _EMPTY.format(threshold)
                except (NoMask, UnreadableImage) as reason:
                    yield row, str(reason)
                bar.update()


_EMPTY = "has an empty mask: nothing from {} up"


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
