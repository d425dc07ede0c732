"""From the command to the first step, on a folder as large as ImageNet."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from benchmarks.training.data import SIZE, make_photographs
from benchmarks.training.failures import PartFailed
from benchmarks.training.many import link_images, link_masks, square_mask
from data.images.listing import list_images

FOLDERS = 1000  # classes


def start_up_report(folder: Path, files: int) -> str:
    """Make a tree of so many images and their masks; return what starting on it takes, in words.

    The images are hard links to a few thousand photographs and the masks one mask many times over,
    so that only their number costs.
    """
    tree, masks, small = folder / "tree", folder / "tree-masks", folder / "few"
    make_photographs(small, max(64, files // 1000))
    keys = link_images(tree, small, files, FOLDERS)
    link_masks(masks, keys, *square_mask(SIZE))
    time.sleep(2.5)  # a tree that changed just now is not trusted
    first = seconds_to_first_step(tree, masks, folder / "first")
    again = seconds_to_first_step(tree, masks, folder / "again")
    base = seconds_to_first_step(small, None, folder / "small")
    return (
        f"\nFrom `pretrain` to its first step: {base:.1f} s on {len(list_images(small))} images; "
        f"on {len(keys):,} images with masks {first:.1f} s, again (the listing is kept beside the "
        f"masks) {again:.1f} s."
    )


def seconds_to_first_step(images: Path, masks: Path | None, out: Path) -> float:
    """Start `pretrain` (a small network), and stop it when the first step's line is there."""
    words = [sys.executable, "-m", "pretrain", str(images), "--out", str(out)]
    words += ["--arch", "resnet18", "--image-size", "64", "--batch-size", "32", "--workers", "1"]
    words += ["--negatives", "64", "--set", "log_every=1", "--set", "knn_every=0"]
    words += ["--paste-probability", "0"] if masks is None else ["--masks", str(masks)]
    started = time.monotonic()
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL)
    metrics = out / "metrics.jsonl"
    try:
        while not (metrics.exists() and metrics.stat().st_size):
            if process.poll() is not None:
                code = process.returncode
                raise PartFailed(f"pretrain ended early, with code {code}: {' '.join(words)}")
            time.sleep(0.02)
        return time.monotonic() - started
    finally:
        process.kill()
        process.wait()
