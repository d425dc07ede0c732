"""Any folder of images as backgrounds, at any depth: VisTex's layout, DTD's, or another."""

from __future__ import annotations

import os
from collections import OrderedDict
from pathlib import Path

import numpy as np

from data.backgrounds import UnreadableBackground
from data.images.decode import UnreadableImage, decode
from data.images.listing import key_path, list_images
from data.keys import printable


class TextureFolder:
    """The images below a folder.

    A texture that was read lately is kept in memory, up to `cache_bytes` in every process, so that
    a set as small as VisTex is decoded once. UserError: no such folder, or no images in it; on
    `read`, UnreadableBackground.
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
