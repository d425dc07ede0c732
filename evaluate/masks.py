"""Masks from a shard folder or a folder of pictures, found by the image's key without suffix."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from data.errors import UserError

SUFFIXES = (".png", ".bmp", ".tif", ".tiff", ".jpg", ".jpeg")


class Unusable(Exception):
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
    """A folder of gray pictures, 0 background .. 255 foreground; subfolders belong to the key."""

    def __init__(self, folder: Path, argument: str = "MASKS"):
        self.folder = folder
        self.method = None
        names = sorted(
            path.relative_to(folder).as_posix()
            for path in folder.rglob("*")
            if path.suffix.lower() in SUFFIXES and path.is_file()
        )
        if not names:
            raise UserError(
                f"{argument} {folder} holds no mask shards (shard-*.h5) and no pictures "
                f"({' '.join(SUFFIXES)}); name a folder that does."
            )
        super().__init__(folder, names)

    def read(self, name: str) -> Mask:
        """The mask of one stem; raises `Unusable` with the reason."""
        path = self.folder / self.key(name)
        try:
            data = np.fromfile(path, np.uint8)
        except OSError as error:
            raise Unusable(f"{path.name} cannot be read ({error.strerror})") from None
        values = cv2.imdecode(data, cv2.IMREAD_GRAYSCALE) if len(data) else None
        if values is None:
            raise Unusable(f"{path.name} cannot be decoded")
        return Mask(values, None)


class ShardedMasks(_Stems):
    """A folder of mask shards, as `saliency-compute` writes them."""

    def __init__(self, folder: Path):
        from data.masks.read import MaskShards

        self.folder = folder
        self.shards = MaskShards(folder)
        self.method = self.shards.method
        super().__init__(folder, self.shards.keys)

    def read(self, name: str) -> Mask:
        """The mask of one stem; raises `Unusable` with the reason recorded in the shard."""
        row = self.shards.find(self.key(name))
        if self.shards.status(row) >= 2:  # unreadable image or failed method: there is no mask
            reason = self.shards.error(row) or "no reason recorded"
            raise Unusable(f"has no mask in {self.folder}: {reason}")
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
