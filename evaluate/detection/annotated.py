"""Images with boxes: what VOC's and COCO's readers give, and what detectors answer."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from data.errors import UserError
from data.files import open_regular
from data.keys import printable

OUTSIDE = 2.0  # pixels by which a box may exceed its picture, rounded as boxes are


@dataclass
class Objects:
    """The objects of an image. Pixels are counted from 0, and a box's far sides lie outside it.

    boxes : float64 (N, 4), x1, y1, x2, y2
    labels : int64 (N,), from 1; 0 is the background
    ignored : bool (N,), which count neither for nor against a detector: VOC's difficult, COCO's
        crowds
    outlines : COCO's segmentations, or nothing
    """

    boxes: np.ndarray
    labels: np.ndarray
    ignored: np.ndarray
    outlines: list[Any] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.boxes)


@dataclass
class Detections:
    """What a detector finds in an image, by falling score.

    boxes : float64 (N, 4), as of `Objects`
    scores : float64 (N,), in [0, 1]
    labels : int64 (N,)
    outlines : run-length encoded masks in COCO's form, or nothing
    """

    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray
    outlines: list[dict] = field(default_factory=list)


@dataclass
class Annotated:
    """Images of one split, in the order of their list.

    names : for a reader of results; ids : COCO's numbers, or VOC's names
    sizes : height and width as annotated
    classes : their names, of label 1 on; numbers : how COCO's files call them
    source : the file that lists the images
    notes : what was left out, in sentences
    """

    names: list[str]
    paths: list[Path]
    ids: list[int | str]
    sizes: list[tuple[int, int]]
    objects: list[Objects]
    classes: tuple[str, ...]
    source: Path
    numbers: tuple[int, ...]
    notes: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.names)

    def take(self, rows: Iterable[int]) -> Annotated:
        """Return some of the images."""
        rows = list(rows)
        columns = (self.names, self.paths, self.ids, self.sizes, self.objects)
        taken = ([column[row] for row in rows] for column in columns)
        return Annotated(*taken, self.classes, self.source, self.numbers)

    def digest(self) -> str:
        """Tells images and their boxes from others."""
        sha = hashlib.sha256()
        for name, objects in zip(self.names, self.objects, strict=True):
            sha.update(f"{name}\t".encode("utf-8", "surrogateescape"))
            sha.update(objects.boxes.tobytes() + objects.labels.tobytes())
        return sha.hexdigest()[:16]


def read_annotations(path: Path, largest: int) -> bytes:
    """Return a file's bytes; UserError for more than `largest`."""
    with open_regular(path) as file:
        data = file.read(largest + 1) if os.fstat(file.fileno()).st_size <= largest else None
    if data is None or len(data) > largest:
        raise UserError(f"{path} is larger than {largest:,} bytes; replace it.")
    return data


def check_box(box: np.ndarray, size: tuple[int, int], where: str) -> np.ndarray:
    """Return a box cut to its picture; UserError, which begins with `where`, if it lies outside."""
    height, width = size
    x1, y1, x2, y2 = box.tolist()
    fits = min(x1, y1) >= -OUTSIDE and x2 <= width + OUTSIDE and y2 <= height + OUTSIDE
    if not np.isfinite(box).all() or not fits:
        sides = ", ".join(f"{side:g}" for side in box.tolist())
        raise UserError(
            f"{where}: the box ({sides}) is not within the picture of {width} x {height}; mend it."
        )
    return np.array([max(x1, 0), max(y1, 0), min(x2, width), min(y2, height)])


def check_images(paths: Iterable[Path], source: Path) -> None:
    """Refuse a list that names an image that is not there."""
    listings: dict[Path, set[str]] = {}
    for path in paths:
        names = listings.get(path.parent)
        if names is None:
            there = os.listdir(path.parent) if path.parent.is_dir() else ()
            names = listings[path.parent] = set(there)
        if path.name not in names:
            raise UserError(
                f"{source} names {printable(str(path))}, which is not there; add it, or take its "
                "line away."
            )
