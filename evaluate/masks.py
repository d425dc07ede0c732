"""Masks from a shard folder or a folder of pictures, by the image's key without its suffix."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data.errors import UserError
from data.images.decode import UnreadableImage, list_images
from data.masks.picture import read_mask


class NoMask(Exception):
    """This image has no mask that can be used; the message says why."""


@dataclass(frozen=True)
class Mask:
    """One mask and the size of the image that it belongs to."""

    values: np.ndarray  # (h, w) uint8
    image_size: tuple[int, int] | None  # (height, width); None for a picture: its own size


def stem(key: str) -> str:
    """The key without its suffix: `n01440764/n01440764_18.JPEG` -> `n01440764/n01440764_18`."""
    head, dot, tail = key.rpartition(".")
    return head if dot and head and "/" not in tail and not head.endswith("/") else key


class _Stems:
    """Maps stems to the keys of a folder; keys that share one stem are refused."""

    def __init__(self, folder: Path, keys):
        self._keys: dict[str, str] = {}
        for key in keys:
            other = self._keys.setdefault(stem(key), key)
            if other != key:
                raise UserError(
                    f"{folder}: '{other}' and '{key}' differ in their suffix alone, and masks are "
                    "matched to images without it; rename one of them."
                )

    def __iter__(self) -> Iterator[str]:
        return iter(self._keys)

    def __len__(self) -> int:
        return len(self._keys)

    def __contains__(self, name: str) -> bool:
        return name in self._keys

    def key(self, name: str) -> str:
        return self._keys[name]


class PictureMasks(_Stems):
    """A folder of masks as pictures of any kind; subfolders belong to the key."""

    def __init__(self, folder: Path, argument: str = "MASKS"):
        self.folder = folder
        self.method = None
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
        path = self.folder / self.key(name)
        try:
            return Mask(read_mask(path), None)
        except UnreadableImage as error:
            raise NoMask(f"{path.name} is no mask ({error})") from None


class ShardedMasks(_Stems):
    """A folder of mask shards, as `saliency-compute` writes them."""

    def __init__(self, folder: Path):
        from data.masks.read import MaskShards

        self.folder = folder
        self.shards = MaskShards(folder)
        self.method = self.shards.method
        super().__init__(folder, self.shards.keys)

    def read(self, name: str) -> Mask:
        """The mask of one stem; raises `NoMask` with the reason recorded in the shard."""
        row = self.shards.find(self.key(name))
        if self.shards.status(row) >= 2:  # unreadable image or failed method: there is no mask
            reason = self.shards.error(row) or "no reason recorded"
            raise NoMask(f"has no mask in {self.folder}: {reason}")
        return Mask(self.shards.read(row), tuple(int(n) for n in self.shards.image_size(row)))


Masks = PictureMasks | ShardedMasks


def open_masks(folder: str | Path, argument: str = "MASKS") -> Masks:
    """Open a shard folder or a folder of pictures; `argument` names it in errors."""
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(
            f"{argument} {folder} is not a folder; name one of mask shards or of pictures."
        )
    if next(folder.glob("shard-*.h5"), None) is not None:
        return ShardedMasks(folder)
    return PictureMasks(folder, argument)


class MaskFinder:
    """Masks by image key, whether they were computed for IMAGES or for a folder below it.

    Parameters
    ----------
    masks : as `open_masks` gives them
    folder : the name of the images' folder below IMAGES, such as `val`; '' where there is none
    """

    def __init__(self, masks: Masks, folder: str = ""):
        self.masks = masks
        self.prefix = f"{folder}/" if folder else ""

    def name(self, key: str) -> str | None:
        """The mask's name for an image, or None."""
        plain = stem(key)
        return next((n for n in (self.prefix + plain, plain) if n in self.masks), None)

    def read(self, key: str, image_size: tuple[int, int], size: int) -> np.ndarray:
        """The mask in the image's centre crop, uint8 (size, size); `NoMask` says why not."""
        name = self.name(key)
        if name is None:
            raise NoMask("has no mask")
        mask = self.masks.read(name)
        if mask.image_size is not None and tuple(mask.image_size) != tuple(image_size):
            theirs = f"{mask.image_size[1]}x{mask.image_size[0]}"
            raise NoMask(f"is {image_size[1]}x{image_size[0]}, its mask is of {theirs}")
        return crop_mask(mask.values, image_size, size)


def crop_mask(mask: np.ndarray, image_size: tuple[int, int], size: int) -> np.ndarray:
    """The part of a mask, at whatever resolution, that the image's centre crop shows.

    mask : uint8 (h, w); image_size : (height, width) of its image. Returns uint8 (size, size).
    """
    from data.images.crop import evaluation_size, sample_box  # needs torch

    # where the crop is in the image, in pixels of the image, and then of the mask
    target = evaluation_size(*image_size, size)
    per_row, per_column = image_size[0] / target[0], image_size[1] / target[1]
    top = round((target[0] - size) / 2) * per_row
    left = round((target[1] - size) / 2) * per_column
    y, x = mask.shape[0] / image_size[0], mask.shape[1] / image_size[1]
    box = (top * y, left * x, size * per_row * y, size * per_column * x)
    return sample_box(mask, box, (size, size))


def names_of(folders: list[Path]) -> list[str]:
    """The shortest tails of the paths that tell the folders apart: the rows and columns' names."""
    resolved = [folder.resolve() for folder in folders]
    depth = 1
    while depth < max(len(path.parts) for path in resolved):
        tails = ["/".join(path.parts[-depth:]) for path in resolved]
        if len(set(tails)) == len(set(resolved)):
            break
        depth += 1
    return ["/".join(path.parts[-depth:]) for path in resolved]
