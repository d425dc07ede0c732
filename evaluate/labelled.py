"""Folders of labelled images: each subfolder is a class, and its name the label."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data.errors import UserError
from data.images.archives import is_folder
from data.images.labels import VAL_NAMES, Labelled, labels_from_folders
from data.images.listing import list_images


@dataclass(frozen=True)
class Split:
    """Training and validation images.

    how : where the split comes from, in words
    folder : the validation images' folder below IMAGES, such as `val`; "" where there is none
    """

    train: Labelled
    val: Labelled
    how: str
    folder: str = ""

    @property
    def images(self) -> int:
        """How many images there are in both parts."""
        return len(self.train) if self.leave_one_out else len(self.train) + len(self.val)

    @property
    def leave_one_out(self) -> bool:
        """Whether each image is compared with all others."""
        return self.train is self.val

    def digest(self) -> str:
        """Tells images, and with their folders their labels, from others."""
        return f"{self.train.keys.digest()} {self.val.keys.digest()}"


def open_labelled(root: str | Path, argument: str = "IMAGES") -> Labelled:
    """List a folder of class folders; `argument` names it in errors."""
    keys = list_images(root)
    labels = labels_from_folders(keys)
    if labels is None:
        stray = next((key for key in keys if "/" not in key), None)
        what = "there is only one" if stray is None else f"'{stray}' lies in none"
        raise UserError(
            f"{argument} {root} has no class folders, two or more with the images of a class each: "
            f"{what}; move the images."
        )
    return Labelled(Path(root), keys, labels.labels, labels.class_names)


def open_split(root: str | Path, holdout: float = 0.2, leave_one_out: str = "") -> Split:
    """Training and validation images of a labelled folder.

    A folder with `train` and `val` (or `validation`, `test`) in it is split as it says. Of any
    other, the share `holdout` of each class is held out, by seed 0, at least one image; or,
    where `leave_one_out` has words for it, both parts are all images.
    """
    root, folder = Path(root), _val_folder(root)
    if not folder:
        everything = open_labelled(root)
        if leave_one_out:
            return Split(everything, everything, leave_one_out)
        train, val = hold_out(everything.labels, holdout, 0)
        how = f"{holdout:.0%} of each class held out, seed 0"
        return Split(everything.take(train), everything.take(val), how)
    train, val = open_labelled(root / "train"), open_labelled(root / folder)
    check_classes(train, val)
    return Split(train, val, f"train/ and {folder}/", folder)


def open_any(root: str | Path) -> tuple[Labelled, str]:
    """List a folder whose labels do not matter, as of one class; and `Split.folder`.

    Where there are `train` and `val` (or `validation`, `test`) it is the images of the latter.
    """
    folder = _val_folder(root)
    root = Path(root) / folder
    keys = list_images(root)
    return Labelled(root, keys, np.zeros(len(keys), np.int64), ["any"]), folder


def _val_folder(root: str | Path) -> str:
    """The name of the folder beside `train` that holds the images to be tested on, or ""."""
    if not is_folder(Path(root) / "train"):
        return ""
    return next((name for name in VAL_NAMES if is_folder(Path(root) / name)), "")


def check_classes(train: Labelled, val: Labelled) -> None:
    """Refuse two folders of different classes."""
    differ = sorted(set(train.classes) ^ set(val.classes))
    if differ:
        has, lacks = (train, val) if differ[0] in train.classes else (val, train)
        raise UserError(
            f"the class '{differ[0]}' is in {has.root} and not in {lacks.root} "
            f"({len(differ)} differ); both need the same class folders."
        )


def hold_out(labels: np.ndarray, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows to keep and rows to hold out, stratified by class; both are sorted int64 arrays."""
    rng = np.random.default_rng(seed)
    held = []
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        if len(rows) < 2:
            raise UserError(
                "IMAGES: a class has a single image, which cannot be both trained on and held out; "
                "add images, or give train and val folders."
            )
        count = min(max(1, round(share * len(rows))), len(rows) - 1)
        held.append(rng.permutation(rows)[:count])
    val = np.sort(np.concatenate(held))
    return np.setdiff1d(np.arange(len(labels)), val), val


def stratified_subset(images: Labelled, limit: int) -> Labelled:
    """At most `limit` images, spread evenly over the classes."""
    if limit >= len(images):
        return images
    order = np.random.default_rng(0).permutation(len(images))
    rank = np.empty(len(images), np.int64)  # of an image within its class, in random order
    for label in range(len(images.classes)):
        rows = order[images.labels[order] == label]
        rank[rows] = np.arange(len(rows))
    chosen = np.lexsort((order, images.labels, rank))[:limit]
    return images.take(np.sort(chosen))
