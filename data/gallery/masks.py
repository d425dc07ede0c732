"""Masks beside their images: image | mask | foreground over grey, for each set of shards."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import chain

import numpy as np

from data.gallery import Cell, Gallery, Row
from data.gallery.rows import fit
from data.images.decode import UnreadableImage, decode
from data.images.listing import key_path
from data.masks.format import Status
from data.masks.picture import scale_mask
from data.masks.read import MaskShards
from data.masks.summary import coverage, why_poor

GREY = 128
"""The level behind a foreground: what copy-paste's homogeneous backgrounds look like on average."""


def over_grey(image: np.ndarray, mask: np.ndarray, level: int = GREY) -> np.ndarray:
    """Return an image's foreground, uint8 (h, w, 3), over grey, its mask (h, w) as a soft alpha."""
    alpha = mask[..., None].astype(np.float32) / 255
    return np.rint(image * alpha + level * (1 - alpha)).astype(np.uint8)


def mask_gallery(
    keys: Iterable[str], sets: Sequence[MaskShards], images: str | os.PathLike | None, side: int
) -> Gallery:
    """Return a gallery of these images, long side at most `side`, and their masks in each set."""
    heads = headings(sets)
    sentences = [
        f"{head}: {len(masks):,} images, "
        + ", ".join(f"{name} {value}" for name, value in masks.parameters.items())
        for head, masks in zip(heads, sets, strict=True)
    ]
    sentences.append(
        "A mask is white where the method sees foreground. The foreground is the image over grey, "
        "with the mask as its opacity."
    )
    rows = [mask_row(key, sets, images, side) for key in keys]
    title = f"{len(rows)} of {len(sets[0]):,} images and their saliency masks"
    columns = ["image", *(name for head in heads for name in (f"{head}: mask", "foreground"))]
    return Gallery(title, sentences, columns, rows)


def two_abreast(gallery: Gallery) -> Gallery:
    """Return the gallery with two rows beside each other, for a picture that is not too long."""
    cells = []
    for row in gallery.rows:
        first = replace(row.cells[0], caption=f"{row.caption}: {row.cells[0].caption}")
        cells.append([first, *row.cells[1:]])
    pairs = [Row("", [*chain(*cells[start : start + 2])]) for start in range(0, len(cells), 2)]
    return replace(gallery, columns=gallery.columns * min(2, len(cells)), rows=pairs)


def mask_row(
    key: str, sets: Sequence[MaskShards], images: str | os.PathLike | None, side: int
) -> Row:
    """Read one image, long side at most `side`, and its masks.

    Without an image folder, or where the image cannot be read, masks are shown alone.
    """
    image, note = None, "no image folder given"
    if images is not None:
        try:
            image, (height, width) = decode(key_path(images, key), side)
            note = f"{width} x {height}"
        except UnreadableImage as error:
            note = str(error)
    return Row(
        key,
        [Cell(image, note), *(cell for masks in sets for cell in _cells(key, masks, image, side))],
    )


def _cells(key: str, masks: MaskShards, image: np.ndarray | None, side: int) -> list[Cell]:
    """Return the cells of a mask and of its foreground."""
    if key not in masks:
        return [Cell(None, "not in these shards"), Cell(None)]
    row = masks.find(key)
    status = masks.status(row)
    if status not in (Status.OK, Status.FLAT):
        return [Cell(None, f"{status.name.lower()}: {masks.error(row)}"), Cell(None)]
    mask = masks.read(row)
    covered = "nothing stands out"
    if status == Status.OK:
        poor = why_poor(mask)
        covered = f"covers {coverage(mask):.0%}" + f": too poor to paste, {poor}" * bool(poor)
    if image is None:
        mask = fit(mask, side) if max(mask.shape) > side else mask
        return [Cell(mask, covered), Cell(None, "no image to cut out")]
    mask = scale_mask(mask, image.shape[:2])
    return [Cell(mask, covered), Cell(over_grey(image, mask))]


def headings(sets: Sequence[MaskShards]) -> list[str]:
    """Return a name for each set: its method; its folder too, where methods repeat."""
    methods = [masks.method for masks in sets]
    return [
        method if methods.count(method) == 1 else f"{method} ({masks.folder.name})"
        for method, masks in zip(methods, sets, strict=True)
    ]
