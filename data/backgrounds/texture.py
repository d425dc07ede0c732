"""Any folder of images as backgrounds, at any depth: VisTex's layout, DTD's, or another."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from data.backgrounds import Kept, UnreadableBackground
from data.images.decode import UnreadableImage, decode
from data.images.listing import key_path, list_images


class TextureFolder:
    """The images below a folder.

    A texture that was read lately is kept in memory, up to `cache_bytes` in every process, so that
    a set as small as VisTex is decoded once. UserError: no such folder, or no images in it; on
    `read`, UnreadableBackground.
    """

    def __init__(self, root: str | os.PathLike, cache_bytes: int = 256 * 2**20) -> None:
        self.root = Path(root)
        self.keys = list_images(root)
        self.kept = Kept(cache_bytes)

    def __len__(self) -> int:
        return len(self.keys)

    def read(self, number: int) -> np.ndarray:
        """Return texture `number` as uint8 (h, w, 3), not to be written to."""
        return self.kept.get(number, self._decode)

    def _decode(self, number: int) -> np.ndarray:
        key = self.keys[number]
        try:
            return decode(key_path(self.root, key)).image
        except UnreadableImage as error:
            raise UnreadableBackground("texture", key, self.root, error) from None
