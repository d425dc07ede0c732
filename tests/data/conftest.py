"""Small sets of shards with known contents."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from data.keys import Keys
from data.masks.format import ChunkEncoder, ShardWriter, Status, shard_name, status_of
from data.masks.index import build_index

Masks = dict[str, np.ndarray | str]  # a mask, or why there is none


@pytest.fixture
def write_shards() -> Callable[..., Keys]:
    """Return a function that writes masks as a set of shards."""

    def write(
        folder: Path,
        masks: Masks,
        size: int = 4,
        canvas: int = 40,
        compression: str = "zstd",
        method: str = "rbd",
        index: bool = True,
        only: tuple[int, ...] | None = None,
        **more: str | int,
    ) -> Keys:
        keys = Keys(masks)
        count = -(-len(keys) // size)
        encoder = ChunkEncoder(canvas, compression)
        attributes = {
            "method": method,
            "parameters": {"max_side": canvas},
            "software": {"dilo": "0"},
            "listing_digest": keys.digest(),
            **more,
        }
        folder.mkdir(parents=True, exist_ok=True)
        for number in range(count) if only is None else only:
            part = keys[number * size : (number + 1) * size]
            path = folder / shard_name(number)
            with ShardWriter(path, number, count, part, canvas, compression, attributes) as writer:
                for row, key in reversed(list(enumerate(part))):
                    mask = masks[key]
                    if isinstance(mask, str):
                        writer.write(row, None, status=Status.UNREADABLE, error=mask)
                        continue
                    height, width = mask.shape
                    image_size = (2 * height, 2 * width)
                    chunk = encoder.encode(mask)
                    writer.write(row, chunk, mask.shape, image_size, status_of(mask))
                writer.commit()
        if index:
            build_index(folder)
        return keys

    return write


@pytest.fixture
def masks() -> Masks:
    """Eleven rows: sizes of every kind, odd names, a flat mask, an unreadable image."""
    rng = np.random.default_rng(0)
    names = [f"a/{i:03d}.JPEG" for i in range(7)] + ["b 'q\" é 漢.jpg", "c\n.png", "z\udcff.png"]
    found: Masks = {}
    for name in names:
        height, width = rng.integers(1, 41, 2)
        found[name] = rng.integers(0, 256, (height, width), np.uint8)
    found["a/000.JPEG"] = np.full((1, 1), 9, np.uint8)
    found["a/001.JPEG"] = rng.integers(0, 256, (40, 40), np.uint8)
    found["a/002.JPEG"] = np.zeros((30, 40), np.uint8)
    found["m.jpg"] = "empty file"
    return found
