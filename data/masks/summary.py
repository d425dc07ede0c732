"""What is inside a folder of mask shards, in numbers; and which masks are too poor to paste."""

import math
from collections import Counter
from typing import Any

import numpy as np

from data.masks.format import Status
from data.masks.read import MaskShards

_NAMED = 10  # examples of a kind


def summarise(masks: MaskShards, sample: int = 2000) -> dict[str, Any]:
    """Count and measure; reads at most `sample` masks, spread evenly.

    Returns images, shards, shard_count and counts by status;
    stored_bytes of all masks, file_bytes with everything else;
    mask_sizes and image_sizes, the smallest, median and largest long side in pixels, or None;
    coverage, the mean of the masks' values in [0, 1] over `sampled` masks, or None;
    poor, how many of those are too poor to paste, by the reason (`data.masks.summary`), and
    poor_examples, key and reason of the first few;
    failures, key, status and reason of the first few images without a mask.
    """
    status = masks.statuses()
    with_mask = np.flatnonzero(status <= Status.FLAT)
    failed = np.flatnonzero(status > Status.FLAT)
    picked = with_mask[np.linspace(0, len(with_mask) - 1, min(sample, len(with_mask)), dtype=int)]
    means, poor = [], {}
    for row in picked.tolist():
        mask = masks.read(row)
        means.append(coverage(mask))
        if why := why_poor(mask):
            poor[masks.keys[row]] = why
    return {
        "images": len(masks),
        "shards": len(masks.shards),
        "shard_count": masks.shard_count,
        "counts": {kind.name.lower(): int((status == kind).sum()) for kind in Status},
        "stored_bytes": masks.stored_bytes,
        "file_bytes": sum(path.stat().st_size for path in masks.shards),
        "mask_sizes": _spread([masks.mask_size(row) for row in picked]),
        "image_sizes": _spread([masks.image_size(row) for row in picked]),
        "coverage": float(np.mean(means)) if means else None,
        "sampled": len(picked),
        "poor": dict(Counter(poor.values())),
        "poor_examples": list(poor.items())[:_NAMED],
        "failures": [
            (masks.keys[row], masks.status(row).name.lower(), masks.error(row))
            for row in failed[:_NAMED].tolist()
        ],
    }


def _spread(sizes: list[tuple[int, int]]) -> tuple[int, int, int] | None:
    """Return the smallest, median and largest long side."""
    if not sizes:
        return None
    sides = np.array(sizes).max(axis=1)
    return int(sides.min()), int(np.median(sides)), int(sides.max())


def as_table(masks: MaskShards, summary: dict[str, Any]) -> list[tuple[str, Any]]:
    """Return a summary as rows of (what, value) for people."""
    counts = summary["counts"]
    rows = [
        ("method", masks.method),
        ("parameters", _pairs(masks.parameters)),
        ("made with", _pairs(masks.software)),
        ("shards", f"{summary['shards']:,} of {summary['shard_count']:,}"),
        ("images", f"{summary['images']:,}"),
        *((f"images, {kind}", f"{count:,}") for kind, count in counts.items()),
    ]
    if summary["sampled"]:
        of_masks = f"(mean of {summary['sampled']:,} masks)"
        rows += [
            ("bytes per mask", f"{summary['stored_bytes'] / (counts['ok'] + counts['flat']):,.0f}"),
            ("bytes on disk", f"{summary['file_bytes']:,}"),
            ("long side of images", "{} .. median {} .. {}".format(*summary["image_sizes"])),
            ("long side of masks", "{} .. median {} .. {}".format(*summary["mask_sizes"])),
            ("coverage", f"{summary['coverage']:.1%} of an image {of_masks}"),
            ("too poor to paste", _shares(summary["poor"], summary["sampled"])),
        ]
    return rows


def _shares(counts: dict[str, int], total: int) -> str:
    each = ", ".join(f"{why} {count:,}" for why, count in sorted(counts.items()))
    return f"{sum(counts.values()) / total:.1%}" + (f" ({each})" if each else "")


def _pairs(values: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items()) or "-"


LEAST, MOST = 0.05, 0.9
"""Shares of an image that a mask worth pasting covers; see docs/saliency.md for how often."""

RAGGED = 4.0
"""Raggedness above which a mask is poor: of ECSSD's true masks one in a hundred has more."""


def coverage(mask: np.ndarray) -> float:
    """Return the mean of a mask, uint8 (h, w), in [0, 1]; 0 of one without pixels."""
    return float(mask.mean()) / 255 if mask.size else 0.0


def raggedness(mask: np.ndarray) -> float:
    """Return the length of a mask's outline over that of the square of its area.

    1 for a square, 1.13 for a disc in pixels, 2 for four squares; 0 where nothing reaches 128.

    mask : uint8 (h, w).
    """
    inside = np.pad(mask >= 128, 1)
    area = int(inside.sum())
    outline = int((inside[1:] != inside[:-1]).sum()) + int((inside[:, 1:] != inside[:, :-1]).sum())
    return outline / (4 * math.sqrt(area)) if area else 0.0


def why_poor(mask: np.ndarray) -> str:
    """Return "nearly empty", "nearly everything" or "ragged"; "" of a mask worth pasting."""
    share = coverage(mask)
    if share < LEAST:
        return "nearly empty"
    if share > MOST:
        return "nearly everything"
    return "ragged" if raggedness(mask) > RAGGED else ""
