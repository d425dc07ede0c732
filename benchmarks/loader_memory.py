"""Memory of a loading process of `pretrain`: over an epoch, and for more and more images.

    python -m benchmarks.loader_memory

The folders are hard links to a few small photographs, with as many masks. `own` is the memory that
a worker does not share with the main process (USS), after the first batches and at the epoch's end.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import numpy as np
import psutil
import skimage.data
from PIL import Image
from tabulate import tabulate

from data.images.listing import list_images
from data.masks.format import ChunkEncoder, ShardWriter, Status, shard_name
from pretrain.views.loader import build_loader
from pretrain.views.recipes import PasteSettings, ViewRecipe

COUNTS = (1_000, 10_000, 100_000)
SIDE, CANVAS, FIRST = 96, 96, 10


def main() -> None:
    """Print the table."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for count in COUNTS:
            root = Path(folder) / str(count)
            link_images(root / "images", count)
            write_masks(root)
            rows.append([f"{count:,}", *measure(root)])
    heads = ["images", f"own, after {FIRST} batches, MB", "at the epoch's end, MB"]
    print(tabulate(rows, heads, tablefmt="github", floatfmt=".1f"))


def link_images(folder: Path, count: int) -> None:
    """Make `count` names for four small photographs."""
    originals = []
    folder.mkdir(parents=True)
    for name in ("astronaut", "chelsea", "coffee", "rocket"):
        path = folder.parent / f"{name}.jpg"
        Image.fromarray(getattr(skimage.data, name)()).resize((SIDE, SIDE)).save(path)
        originals.append(path)
    for number in range(count):
        place = folder / f"class-{number % 100:02d}"
        place.mkdir(exist_ok=True)
        os.link(originals[number % 4], place / f"photograph-{number:08d}.jpg")


def write_masks(root: Path) -> None:
    """Give every image the same mask."""
    keys = list_images(root / "images")
    mask = np.zeros((SIDE, SIDE), np.uint8)
    mask[20:70, 30:80] = 255
    chunk = ChunkEncoder(CANVAS).encode(mask)
    attributes = {"method": "made", "parameters": {}, "software": {}}
    attributes["listing_digest"] = keys.digest()
    (root / "masks").mkdir()
    path = root / "masks" / shard_name(0)
    with ShardWriter(path, 0, 1, keys, CANVAS, "zstd", attributes) as writer:
        for row in range(len(keys)):
            writer.write(row, chunk, mask.shape, (SIDE, SIDE), Status.OK)
        writer.commit()


def measure(root: Path) -> tuple[float, float]:
    """Return a worker's own memory in MB, early in an epoch and at its end."""
    loader = build_loader(
        root / "images",
        root / "masks",
        recipe=ViewRecipe(image_size=64),
        paste=PasteSettings(),
        batch_size=20,
        workers=1,
    )
    try:
        seen = []
        for number, _ in enumerate(loader, start=1):
            if number in (FIRST, len(loader) - 3):
                (worker,) = psutil.Process().children()
                seen.append(worker.memory_full_info().uss / 1e6)
        return seen[0], seen[1]
    finally:
        loader.close()


if __name__ == "__main__":
    main()
