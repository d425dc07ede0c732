"""What to make, and the blocks that it is made in."""

import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from data.keys import Keys
from saliency.rows import MapFunction


@dataclass(frozen=True)
class Plan:
    """What to make. Everything that shapes a mask is recorded in each shard.

    Attributes
    ----------
    images : path of the image root
    keys : Keys
        The images to do, all of them in every part.
    folders : dict
        Output folder of each method.
    parameters : dict
        As JSON-able values; shards of other parameters are refused.
    map_function : MapFunction, optional
        Picklable. A method that computes on a device has none (`saliency.learned`).
    max_side : int
        Cap of the working long side in pixels; 0 for none.
    shard_size : int
    compression : str
    part, parts : int
        This process makes shards part - 1, part - 1 + parts, ... of the set.
    overwrite : bool
        Replace shards that are there (`saliency.overwriting`).
    """

    images: Path
    keys: Keys
    folders: dict[str, Path]
    parameters: dict[str, Any]
    map_function: MapFunction | None = None
    max_side: int = 400
    shard_size: int = 4096
    compression: str = "zstd"
    part: int = 1
    parts: int = 1
    overwrite: bool = False

    @property
    def shard_count(self) -> int:
        return math.ceil(len(self.keys) / self.shard_size)

    @property
    def own_shards(self) -> range:
        return range(self.part - 1, self.shard_count, self.parts)

    @property
    def root(self) -> str:
        """The image root for workers, which may have another working folder."""
        return os.path.abspath(self.images)

    def rows(self, number: int) -> slice:
        """The rows of all keys that a shard holds."""
        return slice(number * self.shard_size, min((number + 1) * self.shard_size, len(self.keys)))


class Block(NamedTuple):
    """Images of one shard that are done in one go.

    Attributes
    ----------
    keys : Keys
    canvas : int
        Side of the shard's raster, for its masks' `ChunkEncoder`.
    shard : int
        Its number.
    """

    keys: Keys
    canvas: int
    shard: int
