"""What is trained and judged on: a labelled folder, composites made of one, or drawn objects.

In composites and drawn objects the classes share their backgrounds, in train and val alike, as the
paper's Figure 1 supposes, and the true masks are known.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from demo.scenes import write_scenes
from evaluate.labelled import Labelled, open_labelled
from evaluate.masks import open_masks
from evaluate.variants import check_classes_left, mixed, usable

SIDE = 128  # pixels of a composite
SEED = 11
TRAIN, VAL = 1600, 400  # drawn objects
TESTS = {"tied": ("tied", "tied"), "unseen": ("shared", "unseen")}  # backgrounds of train and val


@dataclass(frozen=True)
class DataSet:
    """Folders with train/ and val/ in each.

    images : of class folders; truth : their true masks, where they are known
    tests : other labelled folders that linear probe and kNN are repeated on, by name
    """

    images: Path
    truth: Path | None = None
    tests: dict[str, Path] = field(default_factory=dict)


def planned(images: Path | None, out: Path, composite: Path | None, objects: bool) -> DataSet:
    """Where the data set is, or will be after `make`."""
    if objects:
        tests = {name: out / "tests" / name for name in TESTS}
        return DataSet(out / "images", out / "truth", tests)
    if composite is not None:
        return DataSet(out / "images", out / "truth")
    return DataSet(images)


def make(data: DataSet, images: Path | None, composite: Path | None) -> None:
    """Draw or compose what is not there yet."""
    if composite is not None:
        for part in ("train", "val"):
            make_composites(images / part, composite, data, part)
    elif data.truth is not None:
        write_scenes(data.images, data.truth, TRAIN, VAL, ("shared", "shared"))
        for name, folder in data.tests.items():
            truth = data.truth.with_name("tests-truth") / name
            write_scenes(folder, truth, TRAIN // 2, VAL, TESTS[name])


def make_composites(source: Path, masks: Path, data: DataSet, part: str) -> None:
    """Paste each object on an object-free background of another image, of any class.

    Images and masks are centre crops of `SIDE` pixels; a background is filled with copies of the
    largest strip beside its own object. Images without a usable mask are left out, and counted.
    Donors are drawn from (SEED, part, row).
    """
    if (data.images / part).is_dir():
        return
    listed = open_labelled(source, "--images")
    crops, left_out = usable(listed, open_masks(masks, "--composite", part), SIDE)
    check_classes_left(crops, left_out, f"--composite {masks}, {part}")
    kept = crops.images
    print(f"{part}: {len(kept)} composites; {len(left_out)} images have no usable mask", flush=True)
    data.images.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(data.truth / part, ignore_errors=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{part}-", dir=data.images))
    for row in tqdm(range(len(kept)), desc=f"compose {part}", unit="image", disable=None):
        image, mask = crops.crop(row)
        background = crops.background(donor(kept, part, row))
        _save(draft, data.truth / part, kept.keys[row], mixed(image, mask, background), mask)
    draft.chmod(0o755)
    os.replace(draft, data.images / part)


def donor(images: Labelled, part: str, row: int) -> int:
    """The row whose background an image gets: of a class drawn evenly, and not its own."""
    rng = np.random.default_rng((SEED, part == "val", row))
    rows = np.flatnonzero(images.labels == rng.integers(len(images.classes)))
    return int(rng.choice(rows[rows != row]))


def _save(images: Path, truth: Path, key: str, picture: np.ndarray, mask: np.ndarray) -> None:
    name = Path(key).with_suffix("")
    for path, pixels in (
        (images / f"{name}.jpg", picture),
        (truth / f"{name}.png", mask.astype(np.uint8) * 255),
    ):
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path, quality=92)
