"""Masks as PNG files: out of shards, and from any other tool into shards."""

import contextlib
import hashlib
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated

import cv2
import numpy as np
from PIL import Image
from pydantic import Field

from data.errors import UserError
from data.files import draft_folder, refuse_existing, sync_folder
from data.images.decode import UnreadableImage, capped_size, read_size
from data.images.listing import key_path, list_images, stem
from data.keys import Keys, leads_out
from data.masks.format import (
    COMPRESSIONS,
    INDEX_NAME,
    MAX_CANVAS,
    ChunkEncoder,
    ShardWriter,
    Status,
    read_header,
    shard_name,
    shard_paths,
    software_versions,
    status_of,
)
from data.masks.index import build_index, read_rows
from data.masks.picture import read_mask, scale_mask
from data.masks.read import MaskShards
from data.options import Count, Record, one_of, setting

Progress = Callable[[Iterable, int], Iterable]


def _silent(steps: Iterable, total: int) -> Iterable:
    return steps


# Out --------------------------------------------------------------------------------------------


def export_masks(
    masks: MaskShards,
    folder: str | os.PathLike,
    full_size: bool = False,
    overwrite: bool = False,
    progress: Progress = _silent,
) -> int:
    """Write each mask to `<folder>/<key>.png`, 8-bit gray; return how many.

    masks : rows without a mask are left out.
    full_size : scale masks bilinearly to their images' sizes; else they stay at working resolution.
    overwrite : replace files that are there. Otherwise such a file is a UserError, before any is
        written.
    """
    rows = np.flatnonzero(masks.statuses() <= Status.FLAT).tolist()
    root, checked = Path(folder), {""}
    for row in rows:
        path = _png_path(root, masks.keys[row])
        _refuse_links(root, masks.keys[row], checked)
        refuse_existing(path, overwrite)
    with draft_folder(root, "export") as draft:  # a file appears whole, and replaces a link itself
        for row in progress(rows, len(rows)):
            mask = masks.read(row)
            if full_size:
                mask = scale_mask(mask, masks.image_size(row))
            path = _png_path(root, masks.keys[row])
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(mask).save(draft / "mask.png")
            os.replace(draft / "mask.png", path)
    return len(rows)


def _png_path(root: Path, key: str) -> Path:
    """Return where a key's mask goes; UserError for a key that would lead out of the folder."""
    if leads_out(key):
        raise UserError(f"the key {key!r} leads out of a folder; nothing was exported.")
    return root / (key + ".png")


def _refuse_links(root: Path, key: str, checked: set[str]) -> None:
    """Raise UserError where a folder of a key, below the root, is a link; note what is not."""
    parent = key.rpartition("/")[0]
    if parent in checked:
        return
    _refuse_links(root, parent, checked)
    if (root / parent).is_symlink():
        raise UserError(f"{str(root / parent)!r} is a link, which is not followed; remove it.")
    checked.add(parent)


# In ---------------------------------------------------------------------------------------------

_PREFERRED = (".png", ".bmp", ".tif", ".tiff", ".webp", ".pgm")  # of several masks of one name


class ImportSettings(Record):
    """Which images another tool's masks are of, and how they are stored."""

    images: Path = setting(..., "the images that the masks are of")
    method: str = setting("import", "the name to record")
    max_side: Annotated[int, Field(ge=0, le=MAX_CANVAS)] = setting(
        400, f"cap of a mask's long side, 1 to {MAX_CANVAS}; 0: none"
    )
    shard_size: Count = setting(4096, "images in a shard")
    compression: Annotated[str, one_of(COMPRESSIONS)] = setting("zstd", "of the masks")


def import_masks(
    folder: str | os.PathLike,
    out: str | os.PathLike,
    settings: ImportSettings,
    overwrite: bool = False,
    progress: Progress = _silent,
) -> MaskShards:
    """Make shards of another tool's masks.

    A mask belongs to the image `a/b.jpg` if it is `a/b.jpg.png` or else `a/b.png` below `folder`
    (any other ending of an image serves too, in any case of letters). It is read as `read_mask`
    says, must have its image's shape, and is scaled down to the cap by area averages.

    out : gets the shards; UserError if there are others, but for `overwrite`: then they are
        replaced when the new ones are complete, and stay as they are if anything fails before.
        Killed, the same command goes on where it stopped. After its end, it tries anew what had no
        mask, and replaces shards where no mask that is there changes.
    settings : every image gets a row; one without a sound mask has status FAILED (or UNREADABLE, if
        the image is the reason) and says why.

    Raises UserError: not one mask belongs to an image; two images have one mask.
    """
    images, max_side, shard_size = settings.images, settings.max_side, settings.shard_size
    keys, names = list_images(images), list_images(folder)
    partners = _match(keys, names)
    if not (partners >= 0).any():
        raise UserError(
            f"no mask in {os.fspath(folder)!r} has the name of an image in {os.fspath(images)!r} "
            f"(such as {keys[0] + '.png'!r}); check both folders."
        )
    count = -(-len(keys) // shard_size)
    options = (settings.method, max_side, shard_size, settings.compression)
    set_id = _set_id(folder, names, images, keys, *options)
    attributes = {
        "method": settings.method,
        "parameters": {"max_side": max_side},
        "software": software_versions(),
        "listing_digest": keys.digest(),
        "set_id": set_id,
    }
    kept = set()
    if not overwrite:
        kept = _own(Path(out), set_id)
        _refuse_others(Path(out), kept, count, attributes)
    elif len(own := _own(Path(out), set_id)) < count:
        kept = own  # of the same command, which was killed

    def paths(row: int) -> tuple[str, str | None]:
        mask = key_path(folder, names[partners[row]]) if partners[row] >= 0 else None
        return key_path(images, keys[row]), mask

    for number in range(count):
        name = shard_name(number)
        if name in kept and _changed(Path(out) / name, number * shard_size, paths):
            kept.remove(name)
    with draft_folder(out, "import", set_id[:8]) as draft:
        kept |= _own(draft, set_id)
        for path in shard_paths(draft):
            if path.name not in kept:
                path.unlink()
        for row in progress(range(len(keys)), len(keys)):
            number, inner = divmod(row, shard_size)
            if shard_name(number) in kept:
                continue
            if inner == 0:
                part = keys[row : row + shard_size]
                canvas = max_side or _longest_side(images, part)
                stored = canvas, settings.compression
                encoder = ChunkEncoder(*stored)
                path = draft / shard_name(number)
                writer = ShardWriter(path, number, count, part, *stored, attributes)
            mask, size, status, error = _outcome(*paths(row), canvas)
            chunk = None if mask is None else encoder.encode(mask)
            mask_size = (0, 0) if mask is None else mask.shape
            writer.write(inner, chunk, mask_size, size, status, error)
            if inner + 1 == len(part):
                writer.commit()
        if not overwrite:
            _refuse_other_masks(draft, Path(out))
        _replace_shards(draft, Path(out), {shard_name(number) for number in range(count)})
    return MaskShards(out)


def _outcome(
    image_path: str, mask_path: str | None, max_side: int
) -> tuple[np.ndarray | None, tuple[int, int], Status, str]:
    """Return a row's mask, None where there is none, its image's size, its status and reason."""
    size = (0, 0)
    try:
        size = read_size(image_path)
    except UnreadableImage as error:
        return None, size, Status.UNREADABLE, str(error)
    try:
        if mask_path is None:
            raise UnreadableImage("there is no image of its name")
        mask = _fit(read_mask(mask_path), size, max_side)
    except UnreadableImage as error:
        return None, size, Status.FAILED, f"its mask: {error}"
    return mask, size, status_of(mask), ""


def _match(keys: Keys, masks: Keys) -> np.ndarray:
    """Return the row in `masks` of each key's mask, -1 where there is none."""
    ranks = {ending: rank for rank, ending in enumerate(_PREFERRED)}
    endings = [os.path.splitext(name)[1].lower() for name in masks]
    order = sorted(range(len(masks)), key=lambda row: (ranks.get(endings[row], 9), row))
    by_stem = {stem(masks[row]): row for row in reversed(order)}  # the preferred one stays
    partners = np.full(len(keys), -1, np.int64)
    images: dict[int, str] = {}
    for row, key in enumerate(keys):
        partners[row] = by_stem.get(stem(f"{key}."), -1)  # a/b.jpg.png is that of a/b.jpg
        if partners[row] < 0:
            partner = partners[row] = by_stem.get(stem(key), -1)
            if partner >= 0 and (other := images.setdefault(int(partner), key)) != key:
                raise UserError(
                    f"the mask {masks[int(partner)]!r} could be of {other!r} or of {key!r}; "
                    f"name it after one of them ({other + '.png'!r})."
                )
    return partners


def _fit(mask: np.ndarray, size: tuple[int, int], max_side: int) -> np.ndarray:
    """Check a mask's shape against its image's size, and scale it down to the cap."""
    height, width = mask.shape
    # The same shape: each side as the image's, scaled by one factor, give or take a pixel. That is
    # too much to give or take for a mask of very few: any image's could be rounded to 1 x 1.
    tolerance = min(1, max(mask.shape) / 16)
    if abs(height * size[1] - width * size[0]) > tolerance * max(size):
        raise UnreadableImage(
            f"it is {width} x {height}, its image {size[1]} x {size[0]}, another shape"
        )
    target = capped_size(size, max_side)
    if height <= target[0] and width <= target[1]:
        return mask
    return cv2.resize(mask, target[::-1], interpolation=cv2.INTER_AREA)


def _longest_side(images: str | os.PathLike, keys: Keys) -> int:
    """Return the longest side of some images, within 1 to MAX_CANVAS, as the side of a raster."""
    longest = 1
    for key in keys:
        with contextlib.suppress(UnreadableImage):
            longest = max(longest, *read_size(key_path(images, key)))
    return min(longest, MAX_CANVAS)


def _set_id(
    folder: str | os.PathLike, names: Keys, images: str | os.PathLike, keys: Keys, *options: object
) -> str:
    """Return the name of the set that these options make of these files, as they are now."""
    total = hashlib.sha256(repr(options).encode())
    for root, listing in ((folder, names), (images, keys)):
        for name in listing:
            with contextlib.suppress(OSError):  # it is told in its row
                facts = os.stat(key_path(root, name))
                text = f"{name}\0{facts.st_size}\0{facts.st_mtime_ns}\0"
                total.update(text.encode("utf-8", "surrogateescape"))
    return total.hexdigest()


def _own(folder: Path, set_id: str) -> set[str]:
    """Return the names of a folder's shards that are of a set."""
    own = set()
    for path in shard_paths(folder) if folder.is_dir() else ():
        with contextlib.suppress(UserError, OSError):  # a damaged one is none of them
            if read_header(path).set_id == set_id and not path.is_symlink():
                own.add(path.name)
    return own


def _changed(path: Path, first: int, paths: Callable[[int], tuple[str, str | None]]) -> bool:
    """Whether a row without a mask, of a shard that begins at row `first`, has become another."""
    rows = read_rows(path)
    for row in np.flatnonzero(rows["status"] > Status.FLAT).tolist():
        *_, status, error = _outcome(*paths(first + row), MAX_CANVAS)
        if (status, error) != (rows["status"][row], rows["error"][row]):
            return True
    return False


def _refuse_others(out: Path, own: set[str], count: int, attributes: dict[str, object]) -> None:
    """Refuse shards of another set, but for those of the same command: files may have changed."""
    others = [path for path in shard_paths(out) if path.name not in own] if out.is_dir() else []
    names = ("method", "parameters", "listing_digest")
    for header in map(read_header, others):
        same = all(getattr(header, name) == attributes[name] for name in names)
        if not same or header.count != count:
            raise _there_already(out)


def _refuse_other_masks(draft: Path, out: Path) -> None:
    """Refuse to replace shards by such as have another mask of an image that has one."""
    for path in shard_paths(draft):
        if not (out / path.name).exists():
            continue
        old, new = read_rows(out / path.name), read_rows(path)
        masked = old["status"] <= Status.FLAT
        for name in ("status", "mask_size", "image_size", "checks"):
            if not np.array_equal(old.get(name, new[name] + 1)[masked], new[name][masked]):
                raise _there_already(out, " with other masks")


def _there_already(out: Path, which: str = "") -> UserError:
    return UserError(
        f"there are mask shards{which} in {os.fspath(out)!r} already; choose another folder, or "
        "replace them by --overwrite."
    )


def _replace_shards(draft: Path, out: Path, names: set[str]) -> None:
    """Move the shards of a set from `draft` to `out`, where the others are; older ones there go."""
    # killed meanwhile, it leaves shards that differ in `set_id`, and the same command goes on
    (out / INDEX_NAME).unlink(missing_ok=True)  # it describes the shards of before
    for path in shard_paths(draft):
        os.replace(path, out / path.name)
    for path in shard_paths(out):
        if path.name not in names:
            path.unlink()
    sync_folder(out)
    build_index(out)
