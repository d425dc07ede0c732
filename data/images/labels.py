"""Class labels from folders: the first folder of a key is its class, as in ImageNet's layout."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from data.images.decode import decode
from data.images.listing import key_path
from data.keys import Keys

VAL_NAMES = ("val", "valid", "validation", "test")
"""Names of the folder beside `train` that holds the images to be tested on."""


class Labels(NamedTuple):
    """The classes of a folder of images.

    class_names : sorted; label c means class_names[c].
    labels : int64 (N,), in the order of the keys.
    """

    class_names: list[str]
    labels: np.ndarray


@dataclass(frozen=True)
class Labelled:
    """Images of one folder with their labels.

    `keys` are paths below `root`; `labels` are int64 (N,), indices into `classes`, which is sorted.
    """

    root: Path
    keys: Keys
    labels: np.ndarray
    classes: list[str]

    def __len__(self) -> int:
        return len(self.keys)

    def class_of(self, row: int) -> str:
        """The name of an image's class."""
        return self.classes[self.labels[row]]

    def image(self, row: int) -> np.ndarray:
        """An image's pixels, uint8 (H, W, 3). Raises `UnreadableImage`."""
        return decode(key_path(self.root, self.keys[int(row)])).image

    def take(self, rows: np.ndarray) -> Labelled:
        """Some of the images, with the same classes; rows are sorted."""
        keys = self.keys[np.asarray(rows, np.int64)]
        return Labelled(self.root, keys, self.labels[rows], self.classes)


def labels_from_folders(keys: Keys) -> Labels | None:
    """Return the classes that the images' first folders name; None where there are no classes.

    There are none when an image lies in no folder, or when all lie in one, or when the folders are
    a data set's splits (`splits_of`).
    """
    numbers: dict[bytes, int] = {}
    labels = np.empty(len(keys), np.int64)
    for row, raw in enumerate(keys.iter_raw()):
        folder, slash, _ = raw.partition(b"/")
        if not slash:
            return None
        labels[row] = numbers.setdefault(folder, len(numbers))
    if len(numbers) < 2 or _are_splits(numbers):
        return None
    # Keys are sorted with the slash, folders without it: "a b/..." comes before "a/...".
    names = sorted(numbers)
    label_of = {name: label for label, name in enumerate(names)}
    renumber = np.array([label_of[name] for name in numbers], np.int64)
    return Labels([name.decode("utf-8", "surrogateescape") for name in names], renumber[labels])


def splits_of(keys: Keys) -> list[str]:
    """Return the first folders where they are `train`, which comes first, and such; else []."""
    folders = {raw.partition(b"/")[0] for raw in keys.iter_raw()}
    names = sorted(folders, key=lambda folder: (folder.lower() != b"train", folder))
    return list(map(bytes.decode, names)) if _are_splits(folders) else []


def _are_splits(folders: Collection[bytes]) -> bool:
    names = {folder.lower() for folder in folders}
    return b"train" in names and names <= {b"train", *(name.encode() for name in VAL_NAMES)}
