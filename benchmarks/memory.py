"""Memory of saliency-compute: of the parent for 1,000 and 100,000 images, and of a worker.

    python benchmarks/memory.py [IMAGES]

The folders of many images are hard links to tiny pictures. `planning` is the parent's peak after
it has listed them, made their digest and drawn every task, without computing any. `worker` is the
peak of a process that computes all three methods for the first 100 images of IMAGES (ECSSD, say;
otherwise pictures of 400 x 300 with noise), the compiled kernels included.
"""

import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image
from tabulate import tabulate

COUNTS = (1_000, 10_000, 100_000)


def main() -> None:
    """Measure each in a process of its own, and print a table."""
    sys.path[0] = str(Path(__file__).resolve().parents[1])  # this folder has a saliency.py too
    if len(sys.argv) > 2 and sys.argv[1] in ("plan", "work"):
        {"plan": plan, "work": work}[sys.argv[1]](Path(sys.argv[2]))
        return
    with tempfile.TemporaryDirectory() as folder:
        rows = []
        for count in COUNTS:
            images = Path(folder) / str(count)
            link_images(images, count)
            rows.append([f"parent, planning {count:,} images", measure("plan", images)])
        images = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(folder) / "noise"
        if len(sys.argv) == 1:
            draw_noise(images)
        rows.append(["worker, rbd mc gs", measure("work", images)])
    base = rows[0][1]
    table = [[name, f"{size / 1e6:.0f}", f"{size / base:.2f}"] for name, size in rows]
    print(tabulate(table, ["process", "peak MB", "ratio"], disable_numparse=True))


def link_images(folder: Path, count: int) -> None:
    """Make `count` names of one picture, 1,000 a folder."""
    for start in range(0, count, 1000):
        name = f"n{start // 1000:08d}"
        (folder / name).mkdir(parents=True)
        picture = folder / name / f"{name}_{start:08d}.png"  # one each: links are limited in number
        Image.new("RGB", (8, 8), (200, 10, 10)).save(picture)
        for i in range(start + 1, start + 1000):
            os.link(picture, folder / name / f"{name}_{i:08d}.png")


def draw_noise(folder: Path) -> None:
    """Draw 20 pictures of the size of a photograph."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(20):
        coarse = Image.fromarray(rng.integers(0, 256, (15, 20, 3), np.uint8))
        coarse.resize((400, 300), Image.Resampling.BICUBIC).save(folder / f"{i}.jpg")


def measure(what: str, images: Path) -> int:
    """Peak resident memory, in bytes, of this program run for one measurement."""
    command = [sys.executable, __file__, what, str(images)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return int(done.stdout.split()[-1])


def print_peak() -> None:
    """Print this process's peak resident memory in bytes."""
    unit = 1 if sys.platform == "darwin" else 1024
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit)


def plan(images: Path) -> None:
    """Do what the parent does, with tasks that do nothing, and print the peak."""
    from data.images.listing import list_images
    from saliency.batch import Plan, make_shards
    from saliency.workers import Row

    def do_nothing(plan, blocks):
        for block in blocks:
            yield [Row({}, error="not done")] * len(block.keys)

    with tempfile.TemporaryDirectory() as out:
        keys = list_images(images)
        nothing = Plan(images, keys, {"rbd": Path(out)}, {"rbd": {}}, map_function=None)
        make_shards(nothing, do_nothing)
    print_peak()


def work(images: Path) -> None:
    """Do what a worker does for some images, and print the peak."""
    from functools import partial

    from data.images.listing import list_images
    from saliency.maps import choose, compute_maps
    from saliency.workers import compute_rows

    methods = ("rbd", "mc", "gs")
    maps = partial(compute_maps, chosen=choose(methods, {"superpixels": "authors"}))
    keys = list(list_images(images))[:100]
    for start in range(0, len(keys), 16):
        block = keys[start : start + 16]
        compute_rows(str(images), block, maps, methods, 400, 400, "zstd")
    print_peak()


if __name__ == "__main__":
    main()
