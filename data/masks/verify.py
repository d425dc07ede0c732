"""Check mask shards down to the last byte."""

import os
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import h5py
import numpy as np

from data.errors import UserError, as_sentence
from data.images.listing import list_images
from data.keys import Keys, texts_digest
from data.masks.format import (
    INDEX_NAME,
    ShardHeader,
    Status,
    content_digest,
    read_header,
)
from data.masks.index import (
    existing_shards,
    load_index,
    missing_shards,
    own_columns,
    read_keys,
    scan,
    set_problems,
)
from data.masks.opening import Locked, open_shard, reading
from data.processes import Alive, done_apart, usable_cores


@dataclass
class Report:
    """The results of `verify`.

    problems : a sentence each; none where the shards are sound.
    notes : what is worth knowing and no fault of the shards.
    counts : rows by status.
    without_mask, without_image : images that the shards do not know, and rows whose image is not in
        the folder.
    """

    shards: int = 0
    images: int = 0
    counts: dict[Status, int] = field(default_factory=lambda: dict.fromkeys(Status, 0))
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    without_mask: list[str] = field(default_factory=list)
    without_image: list[str] = field(default_factory=list)

    @property
    def sound(self) -> bool:
        """Tell whether nothing is wrong; rows that record a failed image are not wrong."""
        return not (self.problems or self.without_mask or self.without_image)


@dataclass
class _Shard:
    """The results of checking one shard; counts are rows by status, int64 (4,)."""

    header: ShardHeader | None = None
    keys: Keys = field(default_factory=Keys)
    counts: np.ndarray = field(default_factory=lambda: np.zeros(len(Status), np.int64))
    problems: list[str] = field(default_factory=list)
    locked: str = ""  # why it cannot be looked at now


def verify(
    folder: str | os.PathLike,
    images: str | os.PathLike | None = None,
    jobs: int = 1,
    progress: Callable[[Iterable, int], Iterable] = lambda steps, total: steps,
) -> Report:
    """Check every shard of a folder: every checksum, count and key, and that all are of one set.

    Files are looked at in processes of their own, because HDF5 may crash or never end on what is
    damaged; that is then a problem of this file.

    images : the image folder, to list images without a mask and masks without an image.
    jobs : processes that read shards side by side; -1: one per core.
    progress : wraps the iterable of checked shards, to show how far it is.

    Raises UserError: there are no shards, a folder cannot be read, or a file is locked.
    """
    paths = existing_shards(folder)
    listing = list_images(images) if images is not None else None
    report = Report(shards=len(paths))
    processes = min(jobs if jobs > 0 else usable_cores(), len(paths))
    shards = []
    checked = done_apart(_check_shard, paths, processes)
    for path, shard in zip(paths, progress(checked, len(paths)), strict=True):
        if isinstance(shard, str):
            shard = _Shard(problems=[f"{str(path)!r} is damaged: HDF5 fails at it, {shard}."])
        if shard.locked:
            raise Locked(shard.locked)
        shards.append(shard)
        report.images += len(shard.keys)
        report.problems += shard.problems
        for status in Status:
            report.counts[status] += int(shard.counts[status])

    headers = [shard.header for shard in shards if shard.header is not None]
    if headers:
        _check_set(folder, headers, report)
    keys = Keys.concatenate([shard.keys for shard in shards])
    if not keys.is_sorted():
        report.problems.append("The shards' keys are not sorted and unique over the whole set.")
    elif (
        headers and len(headers) == headers[0].count and keys.digest() != headers[0].listing_digest
    ):
        report.problems.append("The shards' keys are not the listing that the masks were made for.")
    _check_index(Path(folder), report)
    if listing is not None:
        report.without_mask = list(listing[np.flatnonzero(keys.rows(listing) < 0)])
        report.without_image = list(keys[np.flatnonzero(listing.rows(keys) < 0)])
    return report


def _check_set(folder: str | os.PathLike, headers: list[ShardHeader], report: Report) -> None:
    """Check that the shards belong together, and that none is missing."""
    report.problems += set_problems(headers)
    if problem := missing_shards(folder, headers):
        report.problems.append(problem)
    for header in headers:
        if header.software != headers[0].software:
            report.notes.append(
                f"{header.path.name}: other versions of the software made it than "
                f"{headers[0].path.name}."
            )


def _check_index(folder: Path, report: Report) -> None:
    if not (folder / INDEX_NAME).exists():
        report.notes.append(f"There is no {INDEX_NAME}; `mask-shards index {folder}` makes it.")
        return
    (outcome,) = done_apart(_compare_index, [(folder, not report.problems)])
    again = f"`mask-shards index {folder}` makes it anew."
    if outcome == _OLD:
        report.notes.append(f"{INDEX_NAME}: it is of an older version, and not used; {again}")
    elif outcome != _FITS:
        report.problems.append(f"{INDEX_NAME}: it does not fit the shards{outcome}; {again}")


_FITS, _OLD = "fits", "old"


def _compare_index(task: tuple[Path, bool], alive: Alive) -> str:
    """Return _FITS, _OLD, or why the index does not fit."""
    folder, compare = task
    try:
        with open_shard(folder / INDEX_NAME) as file, reading(folder / INDEX_NAME):
            if file.attrs["format_version"] == 1:
                return _OLD
        index = load_index(folder)
        return _FITS if index and not (compare and not index.equals(scan(folder))) else ""
    except Exception as error:
        return f" ({_line(error)})"


def _check_shard(path: Path, alive: Alive) -> _Shard:
    """Check one shard, in a process of its own."""
    result = _Shard()
    try:
        with open_shard(path) as file, reading(path):
            result.header = read_header(file)
            _check_file(file, result.header, result, alive)
    except Locked as error:
        result.locked = error.message
    except Exception as error:  # whatever it is, the others are to be told too
        result.problems.append(f"{_line(error)}.")
    return result


def _check_file(file: h5py.File, header: ShardHeader, result: _Shard, alive: Alive) -> None:
    name, rows, problems = header.path.name, header.images, result.problems
    columns = own_columns(file, header)
    keys = result.keys = read_keys(file)
    status, mask_size = columns["status"][:], columns["mask_size"][:]
    if header.version > 1 and texts_digest(columns["error"][:].tolist()) != header.error_digest:
        problems.append(f"{name}: its error texts are not those it was made with.")
    if not keys.is_sorted():
        problems.append(f"{name}: its keys are not sorted and unique.")
    if keys.digest() != header.keys_digest:
        problems.append(f"{name}: its keys are not those it was made with.")
    if (status >= len(Status)).any():
        problems.append(f"{name}: a status is not one of {[int(s) for s in Status]}.")
        return
    result.counts[:] = np.bincount(status, minlength=len(Status))

    checks = np.zeros(rows, np.uint32)
    recorded = columns["checks"][:] if "checks" in columns else None
    for row in range(rows):
        alive()
        try:
            check = None if recorded is None else int(recorded[row])
            checks[row] = _check_row(
                columns["masks"], row, Status(int(status[row])), mask_size, check
            )
        except (OSError, ValueError, RuntimeError) as error:
            problems.append(f"{name}: row {row} ({keys[row]!r}): {_line(error)}.")
    if not problems and header.content_digest != content_digest(
        checks, status, mask_size, columns["image_size"][:]
    ):
        problems.append(f"{name}: its rows are not those it was made with (their digest differs).")


def _check_row(
    masks: h5py.Dataset, row: int, status: Status, mask_size: np.ndarray, check: int | None
) -> int:
    """Return a mask's CRC-32, which should be `check`; 0 of none. ValueError: what is wrong."""
    height, width = mask_size[row].tolist()
    canvas = masks.shape[1]
    has_mask = status in (Status.OK, Status.FLAT)
    chunk = masks.id.get_chunk_info_by_coord((row, 0, 0))
    there = chunk.byte_offset is not None and chunk.size > 0
    if there != has_mask:
        raise ValueError(
            f"its status is {status.name}, but {'a' if there else 'no'} mask is stored"
        )
    if not has_mask:
        if (height, width) != (0, 0):
            raise ValueError(f"it has no mask, but a mask size of {height}x{width}")
        return 0
    if not (0 < height <= canvas and 0 < width <= canvas):
        raise ValueError(f"its mask size {height}x{width} does not fit a canvas of {canvas}")
    if chunk.size <= 4:  # HDF5 would look for a checksum beyond them, and crash
        raise ValueError(f"{chunk.size} bytes cannot be a mask")
    if chunk.byte_offset + chunk.size > masks.file.id.get_filesize():
        raise ValueError("its bytes end beyond the file's")
    _, data = masks.id.read_direct_chunk((row, 0, 0))
    if check not in (None, zlib.crc32(data)):
        raise ValueError("the mask is damaged (its checksum differs)")
    try:
        mask = masks[row]  # through the filters: decompression and Fletcher-32
    except (OSError, RuntimeError) as error:
        raise ValueError(f"the mask is damaged ({_line(error)})") from None
    if mask[height:].any() or mask[:, width:].any():
        raise ValueError("there is something outside of its mask")
    if mask.any() == (status == Status.FLAT):
        raise ValueError(f"its status is {status.name}, which its mask is not")
    return zlib.crc32(data)


def _line(error: Exception) -> str:
    told = error if isinstance(error, UserError) else as_sentence(error)
    text = told.message if told else str(error)
    return " ".join(text.split()).rstrip(".") or type(error).__name__
