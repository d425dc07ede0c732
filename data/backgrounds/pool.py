"""A pool of crops in which no saliency method responds, as backgrounds: reading it, making it.

The paper's third kind of background (DiLo, 5.2): crops of ImageNet images without saliency
response. `mask-shards backgrounds` makes it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import click
import cv2
import h5py
import numpy as np
from pydantic import Field
from tqdm import tqdm

from data.errors import UserError
from data.files import only_writer, refuse_existing, replacing
from data.images.decode import UnreadableImage, decode
from data.images.listing import key_path, list_images
from data.keys import encode_key
from data.masks.format import LIBVER, TEXT_TYPE, software_versions
from data.masks.opening import open_shard, own_dataset, reading
from data.masks.read import MaskShards
from data.options import (
    FOLDER,
    Count,
    NotNegative,
    Record,
    options,
    overwrite_option,
    setting,
)

POOL_FORMAT = "dilo-background-pool"
POOL_VERSION = 1


class BackgroundPool:
    """A file made by `mask-shards backgrounds`; UserError: it is not a pool. OSError: no file.

    One HDF5 file; the crops lie in it uncompressed, so that reading one is a single copy. Opened
    lazily by each process, picklable, safe to fork.
    """

    def __init__(self, path: str | os.PathLike) -> None:
        self.path = Path(path)
        with open_shard(path) as file, reading(path):
            kind, version = file.attrs.get("format"), file.attrs.get("format_version", -1)
            if kind != POOL_FORMAT or int(version) != POOL_VERSION:
                what = f"a pool of version {version}" if kind == POOL_FORMAT else "no pool"
                what += f", not one of version {POOL_VERSION}"
                raise UserError(f"{str(path)!r} is {what}; make one by `mask-shards backgrounds`.")
            self._count, self.size = map(int, own_dataset(file, "crops").shape[:2])
        self._crops: h5py.Dataset | None = None
        self._pid = os.getpid()

    def __len__(self) -> int:
        return self._count

    def read(self, number: int) -> np.ndarray:
        """Return crop `number` as uint8 (size, size, 3)."""
        if self._crops is None or self._pid != os.getpid():  # forked: not the parent's handle
            self._crops = own_dataset(open_shard(self.path), "crops")
            self._pid = os.getpid()
        return self._crops[number]

    def __reduce__(self) -> tuple:
        return BackgroundPool, (self.path,)


# ---- making it -----------------------------------------------------------------------------------


_SIDES = 0.9  # each side that is tried is so much of the one before
_Share = Annotated[float, Field(ge=0, lt=1)]


class PoolSettings(Record):
    """What counts as a background, and how it is stored."""

    threshold: _Share = setting(0.1, "a pixel responds where a mask is above this share of 255")
    tolerance: _Share = setting(0.01, "the share of responding pixels that a crop may have")
    min_side: Count = setting(128, "a crop's smallest side, in pixels of its image")
    size: Count = setting(256, "side of the stored crops, in pixels; crops are scaled to it")
    limit: Count = setting(10_000, "most crops")
    seed: NotNegative = setting(0, "of the images' order")


@dataclass
class PoolReport:
    """How many crops were stored, and what became of the images that were looked at."""

    crops: int = 0
    looked_at: int = 0
    without_mask: int = 0
    unreadable: int = 0


@click.command()
@click.argument("images", type=FOLDER)
@click.argument("masks", type=FOLDER, nargs=-1, required=True)
@click.argument("pool", type=FOLDER)
@options(PoolSettings)
@overwrite_option
def backgrounds(
    images: Path, masks: tuple[Path, ...], pool: Path, overwrite: bool, settings: PoolSettings
) -> None:
    """Make POOL, a file of crops of IMAGES without saliency response.

    MASKS is a folder of mask shards of IMAGES, or several, by different methods: then a crop is
    taken only where no method responds. Of an image the largest such square is taken. Pretraining
    pastes foregrounds on these crops with --background imagenet --background-pool POOL.

    A stored crop of 256 pixels takes 192 KB: 10,000 of them 1.9 GB.
    """
    with tqdm(desc="backgrounds", unit=" images", disable=None, leave=False) as bar:

        def progress(report: PoolReport) -> None:
            bar.set_postfix(crops=report.crops, refresh=False)
            bar.update()

        with only_writer(pool.parent, "POOL", file=pool.name):
            report = build_pool(images, masks, pool, settings, overwrite, progress)
    notes = [f"; {report.without_mask:,} had no mask"] * bool(report.without_mask)
    notes += [f"; {report.unreadable:,} could not be read"] * bool(report.unreadable)
    size = pool.stat().st_size / 2**20
    click.echo(
        f"{report.crops:,} crops of {report.looked_at:,} images in {pool} ({size:,.1f} MB)"
        + "".join(notes)
    )


def quiet_square(
    mask: np.ndarray, threshold: float, tolerance: float, min_side: float
) -> tuple[int, int, int] | None:
    """Return the largest square of a mask without saliency response, or None.

    Sides are tried from the shorter side of the mask downwards, each 0.9 of the one before; of the
    squares of one side, the one that responds least is taken, the topmost and leftmost of equals.

    mask : uint8 (h, w).
    threshold : a pixel responds above this share of 255.
    tolerance : the share of responding pixels that is allowed.
    min_side : smallest side, pixels of the mask.

    Returns (top, left, side), pixels of the mask.
    """
    response = (mask > 255 * threshold).astype(np.uint8)
    sums = cv2.integral(response)  # int32 (h + 1, w + 1)
    side = min(mask.shape)
    while side >= max(1.0, min_side):
        inside = (
            sums[side:, side:] - sums[:-side, side:] - sums[side:, :-side] + sums[:-side, :-side]
        )
        top, left = divmod(int(inside.argmin()), inside.shape[1])
        if inside[top, left] <= tolerance * side * side:
            return top, left, side
        side = min(side - 1, int(side * _SIDES))
    return None


def build_pool(
    images: str | os.PathLike,
    masks: Sequence[str | os.PathLike],
    pool: str | os.PathLike,
    settings: PoolSettings,
    overwrite: bool = False,
    progress: Callable[[PoolReport], None] | None = None,
) -> PoolReport:
    """Cut crops in which no method responds and store them in the file `pool`.

    Images are looked at in a random order by the seed until there are `limit` crops, at most one of
    each. A crop responds where any of the masks does. The file appears whole or not at all.

    images : the image folder.
    masks : one folder of mask shards or several, of different methods, all of these images.
    progress : called after each image, or None.

    UserError: the pool exists; masks of another folder or size of image; there is no crop.
    """
    refuse_existing(pool, overwrite)
    keys = list_images(images)
    sets = [MaskShards(folder) for folder in masks]
    for shards in sets:
        shards.rows_of(keys, images)
    report, chosen, boxes = PoolReport(), [], []
    shape = settings.limit, settings.size, settings.size, 3
    with replacing(pool) as draft, h5py.File(draft, "w", libver=LIBVER, rdcc_nbytes=0) as file:
        # not compressed: photographs hardly shrink without loss
        most, chunks = (None, *shape[1:]), (1, *shape[1:])
        crops = file.create_dataset("crops", shape, "u1", maxshape=most, chunks=chunks)
        for index in np.random.default_rng(settings.seed).permutation(len(keys)):
            key = keys[int(index)]
            report.looked_at += 1
            crop = _crop(Path(images), key, sets, settings, report)
            if crop is not None:
                crops[report.crops] = crop[1]
                chosen.append(encode_key(key))
                boxes.append(crop[0])
                report.crops += 1
            if progress is not None:
                progress(report)
            if report.crops == settings.limit:
                break
        if not chosen:
            raise UserError(
                "there is no quiet crop; raise --threshold or --tolerance, or lower --min-side."
            )
        crops.resize(report.crops, 0)
        file.create_dataset("keys", data=np.array([*chosen, None], object)[:-1], dtype=TEXT_TYPE)
        file.create_dataset("boxes", data=np.array(boxes, "<u4"))  # top, left, side
        sources = [{"method": shards.method, "parameters": shards.parameters} for shards in sets]
        file.attrs["format"], file.attrs["format_version"] = POOL_FORMAT, np.uint32(POOL_VERSION)
        for name, value in (
            ("parameters", settings.model_dump()),
            ("software", software_versions()),
            ("masks", sources),
        ):
            file.attrs[name] = json.dumps(value, sort_keys=True)
    return report


def _crop(
    images: Path, key: str, sets: list[MaskShards], settings: PoolSettings, report: PoolReport
) -> tuple[tuple[int, int, int], np.ndarray] | None:
    """Return an image's quiet square (top, left, side; image pixels) and its pixels, or None."""
    masks = [shards.read(key) for shards in sets] if all(key in shards for shards in sets) else []
    if not masks or not all(mask.size for mask in masks):
        report.without_mask += 1
        return None
    mask, shape = masks[0], masks[0].shape
    for other in masks[1:]:
        if other.shape != shape:
            other = cv2.resize(other, shape[::-1], interpolation=cv2.INTER_LINEAR)
        mask = np.maximum(mask, other)
    size = sets[0].image_size(key)
    scale = size[0] / shape[0], size[1] / shape[1]
    least = settings.min_side / max(scale)
    square = quiet_square(mask, settings.threshold, settings.tolerance, least)
    if square is None:
        return None
    try:
        image, image_size = decode(key_path(images, key))
    except UnreadableImage:
        report.unreadable += 1
        return None
    for shards in sets:
        shards.check_size(key, image_size)
    side = min(int(square[2] * min(scale)), *image_size)
    if side < settings.min_side:
        return None
    top = min(round(square[0] * scale[0]), image_size[0] - side)
    left = min(round(square[1] * scale[1]), image_size[1] - side)
    from data.images.crop import crop_resize  # loads torch, which the other mask-shards do without

    return (top, left, side), crop_resize(image, (top, left, side, side), settings.size)
