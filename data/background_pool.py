"""Find crops in which no saliency method found anything, and store them as a background pool.

The paper's third kind of background (DiLo, 5.2): crops of ImageNet images without saliency
response.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2
import h5py
import numpy as np

from data.backgrounds import POOL_FORMAT, POOL_VERSION
from data.errors import UserError
from data.images.decode import UnreadableImage, decode, key_path, list_images
from data.keys import encode_key
from data.masks.format import LIBVER, TEXT_TYPE
from data.masks.read import MaskShards
from data.pending_file import PendingFile
from data.software import software_versions

_SIDES = 0.9  # each side that is tried is so much of the one before


@dataclass(frozen=True)
class PoolSettings:
    """What counts as a background, and how it is stored.

    Parameters
    ----------
    threshold : a pixel responds where a mask is above this share of full saliency, 0..1.
    tolerance : the share of responding pixels that a crop may have, 0..1.
    min_side : a crop's smallest side, pixels of the image.
    size : side of the stored crops, pixels; a larger crop is scaled down, a smaller one up.
    limit : most crops.
    seed : of the order in which images are looked at.
    """

    threshold: float = 0.1
    tolerance: float = 0.01
    min_side: int = 128
    size: int = 256
    limit: int = 10_000
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what cannot be meant (UserError)."""
        for name in ("threshold", "tolerance"):
            if not 0 <= getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}; give a share from 0 to below 1.")
        for name in ("min_side", "size", "limit"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}; give 1 or more.")
        if self.seed < 0:
            raise UserError(f"the seed {self.seed} is negative; give 0 or more.")


@dataclass(frozen=True)
class PoolReport:
    """How many crops were stored, and what became of the images that were looked at."""

    crops: int
    looked_at: int
    without_mask: int
    unreadable: int


def quiet_square(
    mask: np.ndarray, threshold: float, tolerance: float, min_side: float
) -> tuple[int, int, int] | None:
    """Return the largest square of a mask without saliency response, or None.

    Sides are tried from the shorter side of the mask downwards, each 0.9 of the one before; of the
    squares of one side, the one that responds least is taken, the topmost and leftmost of equals.

    Parameters
    ----------
    mask : uint8 (h, w).
    threshold : a pixel responds above this share of 255.
    tolerance : the share of responding pixels that is allowed.
    min_side : smallest side, pixels of the mask.

    Returns
    -------
    (top, left, side), pixels of the mask
    """
    response = (mask > 255 * threshold).astype(np.uint8)
    sums = cv2.integral(response)  # int32 (h + 1, w + 1)
    side = min(mask.shape)
    while side >= max(1.0, min_side):
        inside = (
            sums[side:, side:] - sums[:-side, side:] - sums[side:, :-side] + sums[:-side, :-side]
        )
        place = int(inside.argmin())
        top, left = divmod(place, inside.shape[1])
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
    progress: Callable[[int, int], None] | None = None,
) -> PoolReport:
    """Find crops that no method found salient and store them in the file `pool`.

    Images are looked at in a random order by the seed until `limit` crops are found, at most one in
    each. A crop responds where any of the masks does. The file appears whole or not at all.

    Parameters
    ----------
    images : the image folder.
    masks : one folder of mask shards or several, of different methods, all of these images.
    progress : called as progress(images looked at, crops found) after each image, or None.

    Raises
    ------
    UserError
        The pool exists; masks of another folder or size of image; no crop was found.
    """
    pool = Path(pool)
    if pool.exists() and not overwrite:
        raise UserError(
            f"{str(pool)!r} exists; give another name, or --overwrite to make it again."
        )
    keys = list_images(images)
    shards = [MaskShards(folder) for folder in masks]
    for one in shards:
        if not any(key in one for key in keys):
            raise UserError(
                f"the masks in {str(one.folder)!r} are of images such as {one.keys[0]!r}, "
                f"none is of an image in {os.fspath(images)!r}; give the masks of these images."
            )
    order = np.random.default_rng(settings.seed).permutation(len(keys))
    counts = {"looked_at": 0, "without_mask": 0, "unreadable": 0}

    def crops() -> Iterator[tuple[str, tuple[int, int, int], np.ndarray]]:
        found = 0
        for index in order:
            key = keys[int(index)]
            counts["looked_at"] += 1
            crop = _crop(Path(images), key, shards, settings, counts)
            if crop is not None:
                found += 1
                yield key, *crop
            if progress is not None:
                progress(counts["looked_at"], found)
            if found == settings.limit:
                return

    stored = _write(pool, crops(), settings, shards)
    return PoolReport(stored, **counts)


def _crop(
    images: Path, key: str, shards: list[MaskShards], settings: PoolSettings, counts: dict[str, int]
) -> tuple[tuple[int, int, int], np.ndarray] | None:
    """Return an image's quiet square (top, left, side; image pixels) and its pixels, or None."""
    if not all(key in one for one in shards):
        counts["without_mask"] += 1
        return None
    read = [one.read(key) for one in shards]
    if not all(mask.size for mask in read):
        counts["without_mask"] += 1
        return None
    shape = read[0].shape
    mask = read[0]
    for other in read[1:]:
        if other.shape != shape:
            other = cv2.resize(other, shape[::-1], interpolation=cv2.INTER_LINEAR)
        mask = np.maximum(mask, other)
    size = shards[0].image_size(key)
    scale = size[0] / shape[0], size[1] / shape[1]
    square = quiet_square(
        mask, settings.threshold, settings.tolerance, settings.min_side / max(scale)
    )
    if square is None:
        return None
    try:
        image, image_size = decode(key_path(images, key))
    except UnreadableImage:
        counts["unreadable"] += 1
        return None
    for one in shards:
        if one.image_size(key) != image_size:
            raise UserError(
                f"the mask of {key!r} in {str(one.folder)!r} is of an image of "
                f"{'x'.join(map(str, one.image_size(key)))} pixels (height x width), but the image "
                f"has {'x'.join(map(str, image_size))}; compute the masks of these images."
            )
    side = min(int(square[2] * min(scale)), *image_size)
    if side < settings.min_side:
        return None
    top = min(round(square[0] * scale[0]), image_size[0] - side)
    left = min(round(square[1] * scale[1]), image_size[1] - side)
    from data.images.crop import crop_resize  # loads torch, which the other mask-shards do without

    return (top, left, side), crop_resize(image, (top, left, side, side), settings.size)


def _write(
    pool: Path,
    crops: Iterator[tuple[str, tuple[int, int, int], np.ndarray]],
    settings: PoolSettings,
    shards: list[MaskShards],
) -> int:
    """Write the crops to a file that appears when it is whole; return how many."""
    side = settings.size
    keys: list[bytes] = []
    boxes: list[tuple[int, int, int]] = []
    pending = PendingFile(pool)
    try:
        with h5py.File(pending, "w", libver=LIBVER) as file:
            # Uncompressed: photographs hardly shrink without loss, and reading is one copy.
            data = file.create_dataset(
                "crops",
                shape=(0, side, side, 3),
                maxshape=(None, side, side, 3),
                chunks=(1, side, side, 3),
                dtype="u1",
            )
            for key, box, crop in crops:
                if len(keys) == data.shape[0]:
                    data.resize(max(64, 2 * data.shape[0]), 0)
                data.id.write_direct_chunk((len(keys), 0, 0, 0), np.ascontiguousarray(crop))
                pending.check()
                keys.append(encode_key(key))
                boxes.append(box)
            if not keys:
                raise UserError(
                    "no crop without saliency response was found; allow more response by "
                    "--threshold and --tolerance, or smaller crops by --min-side."
                )
            data.resize(len(keys), 0)
            names = np.array([*keys, None], object)[:-1]
            file.create_dataset("keys", data=names, dtype=TEXT_TYPE)
            file.create_dataset("boxes", data=np.array(boxes, "<u4"))  # top, left, side
            file.attrs["format"] = POOL_FORMAT
            file.attrs["format_version"] = np.uint32(POOL_VERSION)
            file.attrs["parameters"] = json.dumps(asdict(settings), sort_keys=True)
            file.attrs["software"] = json.dumps(software_versions(), sort_keys=True)
            file.attrs["masks"] = json.dumps(
                [{"method": one.method, "parameters": one.parameters} for one in shards],
                sort_keys=True,
            )
        pending.publish()
    finally:
        pending.discard()
    return len(keys)
