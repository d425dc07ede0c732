"""Masks for tests: soft shapes, and a shard to hold them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from data.keys import Keys
from data.masks.format import ChunkEncoder, ShardWriter, Status, shard_name


def write_masks(
    folder: Path,
    rows: dict[str, tuple[np.ndarray | None, tuple[int, int]]],
    statuses: dict[str, Status] | None = None,
    canvas: int = 128,
    method: str = "test",
) -> None:
    """Write one shard: key -> (mask or None, image size)."""
    keys = Keys(rows)
    encoder = ChunkEncoder(canvas, "zstd")
    attributes = {
        "method": method,
        "parameters": {},
        "software": {},
        "listing_digest": keys.digest(),
    }
    with ShardWriter(folder / shard_name(0), 0, 1, keys, canvas, "zstd", attributes) as writer:
        for row, key in enumerate(keys):
            mask, image_size = rows[key]
            status = (statuses or {}).get(key)
            if mask is None:
                writer.write(row, None, (0, 0), image_size, status or Status.FAILED, "no mask")
                continue
            if status is None:
                status = Status.OK if mask.any() else Status.FLAT
            writer.write(row, encoder.encode(mask), mask.shape, image_size, status)
        writer.commit()


def soft_mask(size: tuple[int, int], seed: int = 0) -> np.ndarray:
    """Return a soft ellipse, uint8 `size`."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: size[0], : size[1]].astype(float)
    centre = np.array(size) * rng.uniform(0.4, 0.6, 2)
    radius = np.array(size) * rng.uniform(0.2, 0.4, 2)
    distance = np.hypot((y - centre[0]) / radius[0], (x - centre[1]) / radius[1])
    return np.uint8(255 * np.clip(4 * (1.1 - distance), 0, 1))
