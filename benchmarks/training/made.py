"""What is trained on where no images or no masks were given."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from benchmarks.training.data import make_photographs
from benchmarks.training.many import link_images, link_masks, original_masks
from data.masks.read import MaskShards

DISTINCT = 512  # photographs; all further files are links to them
_FOLDERS = 4
_MOST = 512  # batches an epoch


def files_for(batch: int, workers: int, processes: int) -> int:
    """Return how many files make epochs that are long beside their beginning.

    64 batches for each process, and 8 for each loading process: each loads one batch at a time.
    """
    return max(DISTINCT, batch * min(_MOST, max(64 * max(1, processes), 8 * workers)))


def make_images_and_masks(folder: Path, files: int) -> tuple[Path, Path]:
    """Make so many images and their RBD masks; return the two folders."""
    few, few_masks = folder / "originals", folder / "original-masks"
    make_photographs(few, min(DISTINCT, files))
    compute_masks(few, few_masks)
    images, masks = folder / "photographs", folder / "masks"
    keys = link_images(images, few, files, _FOLDERS)
    with MaskShards(few_masks) as shards:
        link_masks(masks, keys, *original_masks(shards))
    return images, masks


def compute_masks(images: Path, masks: Path) -> None:
    """Compute RBD masks by the public command."""
    words = [sys.executable, "-m", "saliency", str(images), str(masks), "--method", "rbd"]
    subprocess.run(words, check=True)
