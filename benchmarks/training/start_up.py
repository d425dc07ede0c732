"""From the command to the first step, on a folder as large as ImageNet."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from tqdm import tqdm

from benchmarks.training.data import make_photographs
from data.images import list_images
from data.index import build_index
from data.keys import Keys
from data.shards import ChunkEncoder, ShardWriter, shard_name

FOLDERS = 1000  # classes
SHARD = 4096  # masks


def start_up_report(folder: Path, files: int) -> str:
    """Make a tree of so many images and their masks; return what starting on it takes, in words.

    The images are hard links to a few thousand photographs and the masks one mask many times over,
    so that only their number costs.
    """
    tree, masks = folder / "tree", folder / "tree-masks"
    make_tree(tree, folder / "originals", files)
    keys = list_images(tree)
    make_masks(masks, keys)
    time.sleep(2.5)  # a tree that changed just now is not trusted
    first = seconds_to_first_step(tree, masks, folder / "first")
    again = seconds_to_first_step(tree, masks, folder / "again")
    small = folder / "originals"
    base = seconds_to_first_step(small, None, folder / "small")
    return (
        f"\nFrom `pretrain` to its first step: {base:.1f} s on {len(list_images(small))} images; "
        f"on {len(keys):,} images with masks {first:.1f} s, again (the listing is kept beside the "
        f"masks) {again:.1f} s."
    )


def make_tree(tree: Path, originals: Path, files: int) -> None:
    """Link photographs into `FOLDERS` folders in ImageNet's layout."""
    make_photographs(originals, max(64, files // 1000))
    sources = sorted(originals.rglob("*.jpg"))
    for number in tqdm(range(FOLDERS), desc="tree", unit="folder", disable=None):
        here = tree / f"n{number:08d}"
        here.mkdir(parents=True)
        for place in range(files // FOLDERS):
            source = sources[(number * (files // FOLDERS) + place) % len(sources)]
            os.link(source, here / f"{here.name}_{place:05d}.JPEG")


def make_masks(folder: Path, keys: Keys) -> None:
    """Write shards in which every image has the same mask, a bright square."""
    folder.mkdir()
    mask = np.zeros((48, 64), np.uint8)
    mask[12:36, 16:48] = 255
    encoder = ChunkEncoder(64)
    chunk = encoder.encode(mask)
    attributes = {
        "method": "square",
        "parameters": {},
        "software": {},
        "listing_digest": keys.digest(),
    }
    starts = range(0, len(keys), SHARD)
    for number, start in enumerate(tqdm(starts, desc="masks", unit="shard", disable=None)):
        own = Keys([keys[row] for row in range(start, min(start + SHARD, len(keys)))])
        path = folder / shard_name(number)
        with ShardWriter(path, number, len(starts), own, 64, "zstd", attributes) as writer:
            for row in range(len(own)):
                writer.write(row, chunk, (48, 64), (375, 500))
            writer.commit()
    build_index(folder)


def seconds_to_first_step(images: Path, masks: Path | None, out: Path) -> float:
    """Start `pretrain` (a small network), and stop it when the first step's line is there."""
    words = [sys.executable, "-m", "pretrain", str(images), "--out", str(out)]
    words += ["--arch", "resnet18", "--image-size", "64", "--batch-size", "32", "--workers", "1"]
    words += ["--negatives", "64", "--set", "log_every=1", "--set", "knn_every=0"]
    words += ["--paste-probability", "0"] if masks is None else ["--masks", str(masks)]
    started = time.monotonic()
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL)
    metrics = out / "metrics.jsonl"
    while not (metrics.exists() and metrics.stat().st_size):
        if process.poll() is not None:
            sys.exit(f"pretrain ended early, with code {process.returncode}: {' '.join(words)}")
        time.sleep(0.02)
    seconds = time.monotonic() - started
    process.kill()
    process.wait()
    return seconds
