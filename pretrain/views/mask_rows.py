"""Which row of the mask shards belongs to which image of a folder."""

from __future__ import annotations

import os
from dataclasses import dataclass

import numpy as np

from data.keys import Keys
from data.masks.format import Status
from data.masks.read import MaskShards
from data.masks.summary import coverage as share_covered

FLAT = -1  # the image has a mask, but nothing stands out in it
POOR = -3  # its mask covers less or more of it than is to be pasted
MISSING = -2  # no mask: the key is not in the shards, or its row says that there is none

_NAMED = 3  # so many missing images are named


@dataclass(frozen=True)
class MaskRows:
    """Rows of the masks of a folder's images.

    rows : int64 (N,), for image i the row of its mask, or FLAT, POOR or MISSING.
    examples : keys of the first few missing ones.
    note : more about them; empty where there is nothing to say.
    """

    rows: np.ndarray
    examples: list[str]
    note: str = ""

    def count(self, kind: int) -> int:
        """Return how many images are FLAT, POOR or MISSING."""
        return int((self.rows == kind).sum())

    def complaint(self, images: str | os.PathLike, masks: str | os.PathLike) -> str:
        """Return what is to be said about missing masks, without a remedy."""
        names = ", ".join(repr(key) for key in self.examples)
        missing = self.count(MISSING)
        more = ", ..." if missing > len(self.examples) else ""
        return (
            f"{missing} of the {len(self.rows)} images in {os.fspath(images)!r} "
            f"have no mask in {os.fspath(masks)!r} ({names}{more}{self.note})"
        )


def match_masks(
    keys: Keys,
    masks: MaskShards,
    images: str | os.PathLike,
    coverage: tuple[float, float] = (0.0, 1.0),
) -> MaskRows:
    """Find every image's mask by its key.

    coverage : the range of the mean of a mask, in [0, 1], outside of which it is POOR. Any range
        but the whole reads all masks: some .15 ms each.

    UserError: No image has a mask there: the shards are of another folder.
    """
    rows = masks.rows_of(keys, images)
    matched = rows >= 0
    status = np.full(len(rows), Status.FAILED, np.uint8)
    status[matched] = masks.statuses()[rows[matched]]
    rows[status == Status.FLAT] = FLAT
    rows[(status == Status.UNREADABLE) | (status == Status.FAILED)] = MISSING
    if tuple(coverage) != (0.0, 1.0):
        low, high = coverage
        shares = ((i, share_covered(masks.read(int(rows[i])))) for i in np.flatnonzero(rows >= 0))
        rows[[i for i, share in shares if not low <= share <= high]] = POOR
    absent = np.flatnonzero(rows == MISSING)
    examples = [keys[int(row)] for row in absent[:_NAMED]]
    return MaskRows(rows, examples, masks.keys.composed_otherwise(keys[absent]))
