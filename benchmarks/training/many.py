"""Many images and their masks, made of a few: what they are costs as ever, their number little."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from data.images.listing import list_images
from data.keys import Keys
from data.masks.format import Chunk, ChunkEncoder, ShardWriter, Status, shard_name
from data.masks.index import build_index
from data.masks.read import MaskShards

SHARD = 4096  # masks


class Mask(NamedTuple):
    """A mask as a shard stores it."""

    chunk: Chunk | None
    size: tuple[int, int]
    image_size: tuple[int, int]
    status: Status


def link_images(tree: Path, originals: Path, files: int, folders: int) -> Keys:
    """Make so many hard links to photographs, the same number in each folder; return their keys.

    Link n, whose name is that number, is the photograph n modulo theirs, in the order of their
    keys. Few photographs stay in memory, so that no disk is measured.
    """
    sources = [originals / key for key in list_images(originals)]
    for folder in tqdm(range(folders), desc="links", unit="folder", disable=None):
        here = tree / f"n{folder:08d}"
        here.mkdir(parents=True)
        for number in range(folder * files // folders, (folder + 1) * files // folders):
            os.link(sources[number % len(sources)], here / f"{number:08d}.JPEG")
    return list_images(tree)


def original_masks(originals: MaskShards) -> tuple[list[Mask], int]:
    """Return the masks of the photographs that are linked to, and the side of their raster."""
    sizes = [originals.mask_size(row) for row in range(len(originals))]
    canvas = max(max(size) for size in sizes)
    encoder = ChunkEncoder(canvas)
    masks = []
    for row, size in enumerate(sizes):
        mask, status = originals.read(row), originals.status(row)
        chunk = encoder.encode(mask) if mask.size else None
        masks.append(Mask(chunk, size, originals.image_size(row), status))
    return masks, canvas


def square_mask(image_size: tuple[int, int]) -> tuple[list[Mask], int]:
    """Return one small mask, a bright square, for images of this height and width."""
    mask = np.zeros((48, 64), np.uint8)
    mask[12:36, 16:48] = 255
    return [Mask(ChunkEncoder(64).encode(mask), mask.shape, image_size, Status.OK)], 64


def link_masks(folder: Path, keys: Keys, masks: Sequence[Mask], canvas: int) -> None:
    """Write shards in which link n of `link_images` has the mask n modulo theirs."""
    folder.mkdir()
    attributes = {
        "method": "linked",
        "parameters": {},
        "software": {},
        "listing_digest": keys.digest(),
    }
    starts = range(0, len(keys), SHARD)
    for number, start in enumerate(tqdm(starts, desc="masks", unit="shard", disable=None)):
        own = Keys([keys[row] for row in range(start, min(start + SHARD, len(keys)))])
        path = folder / shard_name(number)
        with ShardWriter(path, number, len(starts), own, canvas, "zstd", attributes) as writer:
            for row, mask in enumerate(_masks_of(own, masks)):
                writer.write(row, mask.chunk, mask.size, mask.image_size, mask.status)
            writer.commit()
    build_index(folder)


def _masks_of(keys: Keys, masks: Sequence[Mask]) -> Iterable[Mask]:
    for key in keys:
        yield masks[int(PurePosixPath(key).stem) % len(masks)]
