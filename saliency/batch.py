"""The batch stage: a folder of images in, a folder of mask shards out, over many processes.

Workers decode, compute and compress a few images at a time; the parent is the only writer, and
writes shards in order, each under a temporary name until it is whole. So a shard is the unit of
resume, a crash loses at most the one being written, every core works on it even where there is only
one, and workers on other machines need to see only the images.
"""

import importlib.metadata
import json
import math
import platform
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from data.errors import UserError
from data.images import UnreadableImage, decode, key_path, read_size
from data.index import build_index
from data.keys import Keys
from data.shards import (
    Chunk,
    ChunkEncoder,
    ShardWriter,
    Status,
    read_header,
    remove_stale_files,
    shard_name,
    shard_paths,
)

_BLOCK = 16  # images a task: about a tenth of a second, small beside a shard, large beside overhead

MapFunction = Callable[[np.ndarray], tuple[dict[str, np.ndarray], bool]]
"""An image, uint8 (h, w, 3), to float maps (h, w) in [0, 1] by method, and whether it is flat."""


class Block(NamedTuple):
    """Some rows of one shard: what a worker does at a time."""

    shard: int
    rows: slice  # of all keys


RunTasks = Callable[[Iterable[Callable[[], Any]]], Iterator[Any]]
"""Runs tasks, wherever, and yields their results in order (`saliency.workers`)."""

Produce = Callable[["Plan", Sequence[Block], dict[int, int]], Iterator[list["Row"]]]
"""Blocks and each shard's raster side to the rows of each block, in order."""


@dataclass(frozen=True)
class Plan:
    """What to make. Everything that shapes a mask is recorded in each shard.

    Attributes
    ----------
    images : path of the image root
    keys : Keys
        The images to do, all of them in every part.
    folders : dict
        Output folder of each method.
    parameters : dict
        As JSON-able values; shards of other parameters are refused.
    map_function : MapFunction, optional
        Picklable. A method that computes on a device has none (`saliency.learned`).
    max_side : int
        Cap of the working long side in pixels; 0 for none.
    shard_size : int
    compression : str
    part, parts : int
        This process makes shards part - 1, part - 1 + parts, ... of the set.
    overwrite : bool
    """

    images: Path
    keys: Keys
    folders: dict[str, Path]
    parameters: dict[str, Any]
    map_function: MapFunction | None = None
    max_side: int = 400
    shard_size: int = 4096
    compression: str = "zstd"
    part: int = 1
    parts: int = 1
    overwrite: bool = False

    @property
    def shard_count(self) -> int:
        return math.ceil(len(self.keys) / self.shard_size)

    @property
    def own_shards(self) -> range:
        return range(self.part - 1, self.shard_count, self.parts)

    def rows(self, number: int) -> slice:
        """The rows of all keys that a shard holds."""
        return slice(number * self.shard_size, min((number + 1) * self.shard_size, len(self.keys)))


@dataclass
class Summary:
    """What a run did.

    Attributes
    ----------
    statuses : dict of int
        Images per status, over all methods, of the shards this run wrote.
    failures : list of (key, reason)
        The first of them.
    shards_written, shards_kept, shards_missing : int
        Missing ones are other parts'.
    mask_bytes : int
        Compressed.
    """

    statuses: dict[Status, int] = field(default_factory=lambda: dict.fromkeys(Status, 0))
    failures: list[tuple[str, str]] = field(default_factory=list)
    shards_written: int = 0
    shards_kept: int = 0
    shards_missing: int = 0
    mask_bytes: int = 0

    @property
    def rows(self) -> int:
        return sum(self.statuses.values())

    @property
    def failed(self) -> int:
        return self.statuses[Status.UNREADABLE] + self.statuses[Status.FAILED]


class Row(NamedTuple):
    """One image's results, as a worker sends them."""

    chunks: dict[str, Chunk] | None
    mask_size: tuple[int, int]
    image_size: tuple[int, int]
    status: Status
    error: str


def make_shards(
    plan: Plan,
    run_tasks: RunTasks,
    show_progress: bool | None = None,
    produce: Produce | None = None,
) -> Summary:
    """Write every shard of the plan's part that is not there yet, then the index.

    Parameters
    ----------
    plan : Plan
    run_tasks : RunTasks
    show_progress : bool, optional
        None: only where stderr is a terminal.
    produce : Produce, optional
        What makes the rows; None: the plan's map function, by `run_tasks`.

    Returns
    -------
    Summary

    Raises
    ------
    UserError
        An output folder holds something else, or cannot be written.
    """
    digest = plan.keys.digest()
    for method, folder in plan.folders.items():
        _prepare(plan, method, folder, digest)
    missing = [
        number
        for number in plan.own_shards
        if not all((folder / shard_name(number)).exists() for folder in plan.folders.values())
    ]
    summary = Summary(shards_kept=len(plan.own_shards) - len(missing))
    attributes = {
        "parameters": plan.parameters,
        "software": software_versions(),
        "listing_digest": digest,
    }
    blocks = [block for number in missing for block in _blocks(plan, number)]
    canvases = _canvases(plan, missing, run_tasks)
    if produce is None:
        results = run_tasks(_tasks(plan, blocks, canvases))
    else:
        results = produce(plan, blocks, canvases)
    images = sum(rows.stop - rows.start for _, rows in blocks)
    hidden = None if show_progress is None else not show_progress  # None: where it is no terminal
    progress = tqdm(total=images, unit=" images", smoothing=0.05, disable=hidden)
    with progress:
        for number in missing:
            _write_shard(plan, number, canvases[number], attributes, results, summary, progress)
    for folder in plan.folders.values():
        there = {int(path.stem.rpartition("-")[2]) for path in shard_paths(folder)}
        absent = plan.shard_count - len(there)
        summary.shards_missing = max(summary.shards_missing, absent)
        if not absent:
            build_index(folder)
    return summary


def _prepare(plan: Plan, method: str, folder: Path, digest: str) -> None:
    """Make the folder ready: nothing of another set in it, no left-overs of a killed run."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"the output folder {str(folder)!r} cannot be made "
            f"({(error.strerror or str(error)).lower()}); choose another OUT."
        ) from None
    remove_stale_files(folder, plan.own_shards)
    own = set(plan.own_shards)
    for path in shard_paths(folder):
        number = int(path.stem.rpartition("-")[2])
        if plan.overwrite and (number in own or number >= plan.shard_count):
            path.unlink()
            (folder / "index.h5").unlink(missing_ok=True)
            continue
        if plan.overwrite and plan.parts > 1:
            continue  # another part's to overwrite
        difference = _difference(plan, method, digest, number, path)
        if difference:
            raise UserError(
                f"{str(folder)!r} already holds shards {difference}; choose another OUT, "
                "or replace them by --overwrite."
            )


def _difference(plan: Plan, method: str, digest: str, number: int, path: Path) -> str | None:
    """Say in what way an existing shard is not one of the plan's, or None if it is."""
    header = read_header(path)
    if header.method != method:
        return f"of method {header.method!r}, not {method!r}"
    if header.listing_digest != digest:
        return f"of other images than the {len(plan.keys)} in {str(plan.images)!r}"
    recorded = json.loads(json.dumps(plan.parameters))
    for name in sorted(header.parameters.keys() | recorded.keys()):
        there, wanted = header.parameters.get(name), recorded.get(name)
        if there != wanted:
            return f"made with {name} {there!r}, not {wanted!r}"
    rows = plan.rows(number)
    if header.count != plan.shard_count or header.images != rows.stop - rows.start:
        return f"of another --shard-size ({header.count} shards, not {plan.shard_count})"
    return None


def _blocks(plan: Plan, number: int) -> Iterator[Block]:
    """Cut a shard's rows into blocks."""
    rows = plan.rows(number)
    for start in range(rows.start, rows.stop, _BLOCK):
        yield Block(number, slice(start, min(start + _BLOCK, rows.stop)))


def _tasks(plan: Plan, blocks: list[Block], canvases: dict[int, int]) -> Iterator[partial]:
    """A task for each block, by the plan's map function."""
    for number, rows in blocks:
        yield partial(
            compute_rows,
            str(plan.images),
            list(plan.keys[rows]),
            plan.map_function,
            tuple(plan.folders),
            plan.max_side,
            canvases[number],
            plan.compression,
        )


def _canvases(plan: Plan, numbers: list[int], run_tasks: RunTasks) -> dict[int, int]:
    """Choose each shard's raster side: the cap, or else the longest side among its images."""
    if plan.max_side:
        return dict.fromkeys(numbers, plan.max_side)
    canvases = dict.fromkeys(numbers, 1)
    blocks = [block for number in numbers for block in _blocks(plan, number)]
    tasks = (partial(longest_side, str(plan.images), list(plan.keys[rows])) for _, rows in blocks)
    for (number, _), longest in zip(blocks, run_tasks(tasks), strict=True):
        canvases[number] = max(canvases[number], longest)
    return canvases


def _write_shard(
    plan: Plan,
    number: int,
    canvas: int,
    attributes: dict[str, Any],
    results: Iterator[list[Row]],
    summary: Summary,
    progress: tqdm,
) -> None:
    """Write one shard of each method from the next results."""
    keys = plan.keys[plan.rows(number)]
    writers: dict[str, ShardWriter] = {}
    try:
        for method, folder in plan.folders.items():
            writers[method] = ShardWriter(
                folder / shard_name(number),
                number,
                plan.shard_count,
                keys,
                canvas,
                plan.compression,
                {**attributes, "method": method},
            )
        row = 0
        while row < len(keys):
            for result in next(results):
                for method, writer in writers.items():
                    chunk = result.chunks[method] if result.chunks is not None else None
                    writer.write(
                        row, chunk, result.mask_size, result.image_size, result.status, result.error
                    )
                    summary.mask_bytes += len(chunk.data) if chunk is not None else 0
                summary.statuses[result.status] += 1
                if result.error and len(summary.failures) < 5:
                    summary.failures.append((keys[row], result.error))
                row += 1
                progress.update()
        for writer in writers.values():
            writer.commit()
        summary.shards_written += 1
    finally:
        for writer in writers.values():
            writer.abort()


# In the workers ---------------------------------------------------------------------------------


def compute_rows(
    images: str,
    keys: list[str],
    map_function: MapFunction,
    methods: tuple[str, ...],
    max_side: int,
    canvas: int,
    compression: str,
) -> list[Row]:
    """Decode, compute and compress some images. One that fails is a row with a reason."""
    encoder = _encoder(canvas, compression)
    return [
        _compute_row(key_path(images, key), map_function, methods, max_side, encoder)
        for key in keys
    ]


def _compute_row(
    path: str,
    map_function: MapFunction,
    methods: tuple[str, ...],
    max_side: int,
    encoder: ChunkEncoder,
) -> Row:
    try:
        image, image_size = decode(path, max_side)
    except UnreadableImage as reason:
        return Row(None, (0, 0), (0, 0), Status.UNREADABLE, str(reason))
    try:
        maps, flat = map_function(image)
        chunks = {name: encoder.encode(to_uint8(maps[name])) for name in methods}
    except Exception as error:  # one odd image must not end hours of work
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        return Row(None, (0, 0), image_size, Status.FAILED, reason)
    status = Status.FLAT if flat else Status.OK
    return Row(chunks, image.shape[:2], image_size, status, "")


def longest_side(images: str, keys: list[str]) -> int:
    """The longest side among some images, from their headers; unreadable ones count as 1."""
    longest = 1
    for key in keys:
        try:
            longest = max(longest, *read_size(key_path(images, key)))
        except UnreadableImage:
            continue
    return longest


def to_uint8(saliency: np.ndarray) -> np.ndarray:
    """Quantise a map, float in [0, 1], to uint8, halves rounded up as MATLAB does."""
    return np.floor(saliency * 255 + 0.5).astype(np.uint8)


@cache
def _encoder(canvas: int, compression: str) -> ChunkEncoder:
    return ChunkEncoder(canvas, compression)


def software_versions() -> dict[str, str]:
    """Versions of what shapes a mask."""
    names = {
        "dilo": "dilo",
        "h5py": "h5py",
        "numba": "numba",
        "numpy": "numpy",
        "opencv": "opencv-contrib-python-headless",
        "pillow": "pillow",
        "scipy": "scipy",
    }
    versions = {"python": platform.python_version()}
    for name, distribution in names.items():
        try:
            versions[name] = importlib.metadata.version(distribution)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = "unknown"
    return versions
