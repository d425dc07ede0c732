"""Mask shards: bytes a mask, time to encode, time of a random read, memory of a reader.

    python -m benchmarks.shards MASKS [--large]

MASKS is a folder of 8-bit gray masks with a long side of at most 400, as `mask-shards export`
writes them. Everything runs in one process; times are medians. The floor is what cannot be
avoided: to decompress the same canvas by the zstd library alone, without HDF5, checksum, crop or
key. PNG is what a folder of files would cost, less opening the files.
"""

import argparse
import io
import multiprocessing
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
from PIL import Image
from tabulate import tabulate

from data.images.listing import key_path, list_images
from data.keys import Keys
from data.masks.format import Chunk, ChunkEncoder, ShardWriter, Status, shard_name, status_of
from data.masks.index import build_index
from data.masks.read import MaskShards
from data.masks.transfer import read_mask

CANVAS = 400


def median_ms(action: Callable[[int], object], count: int) -> float:
    """Return the median time of action(0), action(1), ... in milliseconds."""
    times = []
    for i in range(count):
        start = time.perf_counter()
        action(i)
        times.append(time.perf_counter() - start)
    return 1e3 * float(np.median(times))


def write(folder: Path, keys: Keys, chunks: list[Chunk], sizes: list, compression: str) -> None:
    """Write a set of shards of 4,096; chunks are used in turn."""
    attributes = {
        "method": "benchmark",
        "parameters": {},
        "software": {},
        "listing_digest": keys.digest(),
    }
    count = -(-len(keys) // 4096)
    for number in range(count):
        part = keys[number * 4096 : (number + 1) * 4096]
        path = folder / shard_name(number)
        with ShardWriter(path, number, count, part, CANVAS, compression, attributes) as writer:
            for row in range(len(part)):
                which = (number * 4096 + row) % len(chunks)
                size = sizes[which]
                writer.write(row, chunks[which], size, size, Status.OK)
            writer.commit()
    build_index(folder)


def speed(masks: list[np.ndarray]) -> None:
    """Print bytes and times of each compression, of PNG, and of the floor."""
    order = np.random.default_rng(0).permutation(len(masks))
    rows, reference = [], 0.0
    for compression in ("zstd", "gzip"):
        encoder = ChunkEncoder(CANVAS, compression)
        encode = median_ms(lambda i, e=encoder: e.encode(masks[i]), len(masks))
        chunks = [encoder.encode(mask) for mask in masks]
        with tempfile.TemporaryDirectory() as folder:
            keys = Keys(f"{i:06d}.jpg" for i in range(len(masks)))
            write(Path(folder), keys, chunks, [mask.shape for mask in masks], compression)
            shards = MaskShards(folder)
            names = [keys[i] for i in order]
            read = median_ms(lambda i, s=shards, n=names: s.read(n[i]), len(masks))
            find = median_ms(lambda i, s=shards, n=names: s.find(n[i]), len(masks))
        stored = float(np.mean([len(chunk.data) for chunk in chunks]))
        rows.append([f"shard, {compression}", stored, encode, read])
        if compression == "zstd":
            reference = read
            print(f"of a read by key, finding the key takes {find * 1e3:.1f} us")
    files = [io.BytesIO() for _ in masks]
    encode = median_ms(lambda i: Image.fromarray(masks[i]).save(files[i], "PNG"), len(masks))
    read = median_ms(lambda i: np.asarray(Image.open(files[order[i]])), len(masks))
    rows.append(["PNG, in memory", float(np.mean([f.tell() for f in files])), encode, read])
    floor = zstd_floor(masks, order)
    if floor:
        rows.append(["floor: zstd alone", *floor])
    table = [[*row, row[3] / reference] for row in rows]
    heads = ["", "bytes a mask", "encode ms", "random read ms", "read, ratio to zstd shard"]
    print(tabulate(table, heads, floatfmt=("", ".0f", ".3f", ".3f", ".2f")))


def zstd_floor(masks: list[np.ndarray], order: np.ndarray) -> tuple[float, float, float] | None:
    """Return bytes and times of the bare zstd library, where Python has one."""
    try:
        from compression import zstd  # Python 3.14
    except ImportError:
        try:
            import zstandard as zstd
        except ImportError:
            print("no zstd library in this Python: the floor is left out (pip install zstandard)")
            return None
    canvas = np.zeros((CANVAS, CANVAS), np.uint8)
    raw = []
    for mask in masks:
        canvas[:] = 0
        canvas[: mask.shape[0], : mask.shape[1]] = mask
        raw.append(canvas.tobytes())
    encode = median_ms(lambda i: zstd.compress(raw[i], 3), len(masks))
    packed = [zstd.compress(data, 3) for data in raw]
    read = median_ms(lambda i: zstd.decompress(packed[order[i]]), len(masks))
    return float(np.mean([len(data) for data in packed])), encode, read


def _reader_memory(folder: str, queue: multiprocessing.Queue) -> None:
    process = psutil.Process()
    before = process.memory_full_info().uss
    shards = MaskShards(folder)
    opened = process.memory_full_info().uss
    for row in np.random.default_rng(0).integers(0, len(shards), 1000):
        shards.read(shards.keys[row])
    queue.put((opened - before, process.memory_full_info().uss - before))


def memory(masks: list[np.ndarray], counts: list[int]) -> None:
    """Print what a reader adds to its process's own memory, for sets of several sizes."""
    chunk = ChunkEncoder(CANVAS).encode(masks[0])
    rows = []
    for count in counts:
        keys = Keys(f"n{i // 1300:08d}/n{i // 1300:08d}_{i:07d}.JPEG" for i in range(count))
        with tempfile.TemporaryDirectory() as folder:
            write(Path(folder), keys, [chunk], [masks[0].shape], "zstd")
            context = multiprocessing.get_context("spawn")
            queue = context.Queue()
            process = context.Process(target=_reader_memory, args=(folder, queue))
            process.start()
            opened, used = queue.get()
            process.join()
            index = (Path(folder) / "index.h5").stat().st_size
        rows.append([count, keys.array.nbytes / 1e6, index / 1e6, opened / 1e6, used / 1e6])
    heads = ["keys", "Keys MB", "index.h5 MB", "reader MB (its own)", "after 1,000 reads MB"]
    print(tabulate(rows, heads, floatfmt=(",.0f", ".2f", ".2f", ".2f", ".2f"), intfmt=","))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("masks", type=Path, help="a folder of gray masks, long side at most 400")
    parser.add_argument("--limit", type=int, default=1000, help="of masks (default: 1000)")
    parser.add_argument("--large", action="store_true", help="also 1.28 million keys")
    arguments = parser.parse_args()
    keys = list_images(arguments.masks)[: arguments.limit]
    masks = [read_mask(key_path(arguments.masks, key)) for key in keys]
    masks = [m for m in masks if max(m.shape) <= CANVAS and status_of(m) == Status.OK]
    print(f"{len(masks)} masks of {arguments.masks}")
    speed(masks)
    memory(masks, [1000, 100_000, *([1_281_167] if arguments.large else [])])


if __name__ == "__main__":
    main()
