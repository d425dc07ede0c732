"""The batch stage: a folder of images in, folders of mask shards out, over many processes.

Workers decode, compute and compress a few images at a time; the parent is the only writer, and
writes shards in order, each whole or not at all. So a shard is the unit of resume, a crash loses at
most the shard in memory, every core works on it even where there is only one shard, and workers on
other machines need to see only the images.
"""

import json
import math
import os
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import click
import numpy as np
from tqdm import tqdm

from data.errors import UserError
from data.keys import Keys, printable
from data.masks.format import (
    INDEX_NAME,
    ShardWriter,
    Status,
    read_header,
    shard_name,
    shard_paths,
    software_versions,
)
from data.masks.index import build_index, read_rows
from data.processes import StopRequest
from saliency.workers import MapFunction, Row, longest_side

_BLOCK = 16  # images a task: about a tenth of a second, small beside a shard, large beside overhead


class Block(NamedTuple):
    """Images of a shard, by its number, that are done in one go."""

    keys: Keys
    shard: int


@dataclass(frozen=True)
class Plan:
    """What to make. Everything that shapes a mask is recorded in each shard.

    images : the image root.
    keys : the images to do, all of them in every part.
    folders : output folder of each method.
    parameters : of each method, JSON-able; shards of other parameters are refused.
    map_function : picklable; None for a method that computes on a device (`saliency.device_stage`).
    max_side : cap of the working long side in pixels; 0 for none.
    part, parts : this process makes shards part - 1, part - 1 + parts, ... of the set.
    overwrite : delete the part's shards that are there first.
    """

    images: Path
    keys: Keys
    folders: dict[str, Path]
    parameters: dict[str, dict[str, Any]]
    map_function: MapFunction | None = None
    max_side: int = 400
    shard_size: int = 4096
    compression: str = "zstd"
    part: int = 1
    parts: int = 1
    overwrite: bool = False
    _canvases: dict[int, int] = field(default_factory=dict, init=False, repr=False)

    @property
    def shard_count(self) -> int:
        return math.ceil(len(self.keys) / self.shard_size)

    @property
    def numbers(self) -> range:
        """The shards of this part."""
        return range(self.part - 1, self.shard_count, self.parts)

    @cached_property
    def digest(self) -> str:
        return self.keys.digest()

    @property
    def root(self) -> str:
        """The image root for workers, which may have another working folder."""
        return os.path.abspath(self.images)

    def shard_keys(self, number: int) -> Keys:
        return self.keys[number * self.shard_size : (number + 1) * self.shard_size]

    def blocks(self, number: int) -> Iterator[Block]:
        """Cut a shard into blocks."""
        keys = self.shard_keys(number)
        for start in range(0, len(keys), _BLOCK):
            yield Block(keys[start : start + _BLOCK], number)

    def canvas(self, number: int) -> int:
        """Return the side of a shard's raster: the cap, or else its images' longest side."""
        if self.max_side:
            return self.max_side
        if number not in self._canvases:
            self._canvases[number] = longest_side(self.root, self.shard_keys(number))
        return self._canvases[number]


@dataclass
class Summary:
    """What there is after a run.

    statuses : images per status in the shards of the plan's part, earlier runs' included. Flat is
        an image whose mask is zero by every method.
    remarked : images with a mask that are damaged inside.
    failures, remarks : the first (key, reason) of images without a mask, and of those.
    images : images that this run did.
    masks, mask_bytes : what it wrote of them: masks of all methods, and their compressed size.
    shards_written, shards_kept, shards_missing : missing are other parts'.
    """

    statuses: dict[Status, int] = field(default_factory=lambda: dict.fromkeys(Status, 0))
    remarked: int = 0
    failures: list[tuple[str, str]] = field(default_factory=list)
    remarks: list[tuple[str, str]] = field(default_factory=list)
    images: int = 0
    masks: int = 0
    mask_bytes: int = 0
    shards_written: int = 0
    shards_kept: int = 0
    shards_missing: int = 0

    @property
    def rows(self) -> int:
        return sum(self.statuses.values())

    @property
    def failed(self) -> int:
        return self.statuses[Status.UNREADABLE] + self.statuses[Status.FAILED]

    def count(self, key: str, status: Status, error: str) -> None:
        """Count an image."""
        self.statuses[status] += 1
        masked = status in (Status.OK, Status.FLAT)
        self.remarked += masked and bool(error)
        named = self.remarks if masked else self.failures
        if error and len(named) < 5:
            named.append((key, error))

    def report(self, out: Path, seconds: float) -> str:
        """Return the closing lines: what was made, what failed, what is still missing."""
        lines = []
        if self.shards_kept:
            lines.append(f"{self.shards_kept} shards were there already.")
        if self.images:
            each = self.mask_bytes / max(1, self.masks) / 1024
            lines.append(
                f"{self.masks} masks in {seconds:.1f} s ({self.images / seconds:.1f} images/s), "
                f"{each:.1f} KB a mask, in {printable(str(out))}"
            )
        if self.statuses[Status.FLAT]:
            lines.append(
                f"{self.statuses[Status.FLAT]} images have an empty mask: nothing stands out."
            )
        if self.remarked:
            lines.append(
                f"{self.remarked} images are damaged inside, and their masks are of what could be "
                "decoded; the first of them:"
            )
            lines += [f"  {key!r}: {remark}" for key, remark in self.remarks]
        if self.failed:
            lines.append(f"{self.failed} images have no mask; the first of them:")
            lines += [f"  {key!r}: {reason}" for key, reason in self.failures]
        if self.shards_missing:
            lines.append(
                f"{self.shards_missing} shards of other parts are not there yet; the part that "
                "finishes last writes index.h5."
            )
        return "\n".join(lines)


Compute = Callable[[Plan, Iterable[Block]], Generator[list[Row]]]
"""Yields the blocks' rows, in order, some at a time: `Workers.compute` or a `DeviceStage`."""


def make_shards(
    plan: Plan,
    compute: Compute,
    show_progress: bool | None = None,
    stop: StopRequest | None = None,
) -> Summary:
    """Write every shard of the plan's part that is not there yet, then the index.

    compute : how and where masks are made.
    show_progress : None: only where stderr is a terminal.
    stop : looked at after every block.

    Raises UserError: an output folder holds something else. OSError: it cannot be written.
    KeyboardInterrupt: stopped; its argument is the signal's number.
    """
    for method, folder in plan.folders.items():
        _prepare(plan, method, folder)
    summary = Summary()
    stop = StopRequest() if stop is None else stop
    missing = _missing(plan)
    kept = [number for number in plan.numbers if number not in missing]
    for number in _changed(plan, compute, kept, stop):
        missing[number] = list(plan.folders)
    for number in kept:
        if number not in missing:
            _count_kept(plan, number, summary)
    missing = dict(sorted(missing.items()))
    blocks = (block for number in missing for block in plan.blocks(number))
    results = compute(plan, blocks)
    progress = tqdm(
        total=sum(len(plan.shard_keys(number)) for number in missing),
        unit=" images",
        smoothing=0.05,
        disable=None if show_progress is None else not show_progress,
    )
    with closing(results), progress:
        rows = _rows(results, stop, progress)
        for number, methods in missing.items():
            _write_shard(plan, number, methods, rows, summary)
    _build_indices(plan, summary)
    return summary


def _prepare(plan: Plan, method: str, folder: Path) -> None:
    """Make the folder ready: nothing of another set in it."""
    folder.mkdir(parents=True, exist_ok=True)
    if plan.overwrite:
        _delete_own(plan, folder)
        return
    for path in shard_paths(folder):
        difference = _difference(plan, method, path)
        if difference:
            raise UserError(
                f"{str(folder)!r} already holds shards {difference}; choose another OUT, "
                "or replace them by --overwrite."
            )


def _delete_own(plan: Plan, folder: Path) -> None:
    """Delete the shards of this part, also those beyond the last of a smaller set."""
    numbers = {path: int(path.stem.rpartition("-")[2]) for path in shard_paths(folder)}
    own = [path for path, number in numbers.items() if number % plan.parts == plan.part - 1]
    for path in own:
        (folder / INDEX_NAME).unlink(missing_ok=True)  # it describes them
        path.unlink(missing_ok=True)
    if own:
        click.echo(f"Deleted {len(own)} shards in {printable(str(folder))}.", err=True)


def _difference(plan: Plan, method: str, path: Path) -> str | None:
    """Say in what way an existing shard is not the plan's; None if it is."""
    header = read_header(path)
    if header.method != method:
        return f"of method {header.method!r}, not {method!r}"
    if header.listing_digest != plan.digest:
        return f"of other images than the {len(plan.keys)} in {str(plan.images)!r}"
    recorded = json.loads(json.dumps(plan.parameters[method]))
    for name in sorted(header.parameters.keys() | recorded.keys()):
        there, wanted = header.parameters.get(name), recorded.get(name)
        if there != wanted:
            return f"made with {name} {there!r}, not {wanted!r}"
    if header.count != plan.shard_count or header.images != len(plan.shard_keys(header.number)):
        return f"of another --shard-size ({header.count} shards, not {plan.shard_count})"
    return None


def _missing(plan: Plan) -> dict[int, list[str]]:
    """Return the shards that are not there, each with the methods that lack it."""
    missing: dict[int, list[str]] = {}
    for number in plan.numbers:
        name = shard_name(number)
        methods = [m for m, folder in plan.folders.items() if not (folder / name).exists()]
        if methods:
            missing[number] = methods
    return missing


def _changed(plan: Plan, compute: Compute, numbers: list[int], stop: StopRequest) -> set[int]:
    """Try the unreadable images of shards again; return the shards that are no longer true."""
    told: list[tuple[int, set[str]]] = []  # of each image: its shard, its reasons there
    blocks = []
    for number in numbers:
        reasons: dict[int, set[str]] = {}
        for folder in plan.folders.values():
            rows = read_rows(folder / shard_name(number))
            for row in np.flatnonzero(rows["status"] == Status.UNREADABLE).tolist():
                reasons.setdefault(row, set()).add(rows["error"][row])
        told += [(number, reasons[row]) for row in sorted(reasons)]
        keys = plan.shard_keys(number)[np.array(sorted(reasons), int)]
        blocks += [Block(keys[i : i + _BLOCK], number) for i in range(0, len(keys), _BLOCK)]
    if not told:
        return set()
    click.echo(f"{len(told)} images that could not be read are tried again.", err=True)
    changed = set()
    with closing(compute(plan, blocks)) as results:
        for (number, reasons), row in zip(told, _rows(results, stop), strict=True):
            if row.status != Status.UNREADABLE or {row.error} != reasons:
                changed.add(number)
    return changed


def _count_kept(plan: Plan, number: int, summary: Summary) -> None:
    """Count the images of a shard that an earlier run has finished."""
    rows = [read_rows(folder / shard_name(number)) for folder in plan.folders.values()]
    statuses, errors = np.min([each["status"] for each in rows], axis=0), rows[0]["error"]
    for key, status, error in zip(plan.shard_keys(number), statuses, errors, strict=True):
        summary.count(key, Status(status), error)
    summary.shards_kept += 1


def _rows(
    results: Iterator[list[Row]], stop: StopRequest, progress: tqdm | None = None
) -> Iterator[Row]:
    """Yield the rows, until there is a request to stop."""
    for rows in results:
        if stop:
            raise KeyboardInterrupt(stop.number)
        for row in rows:
            if progress is not None:
                progress.update()
            yield row


def _write_shard(
    plan: Plan, number: int, methods: list[str], rows: Iterator[Row], summary: Summary
) -> None:
    """Write a shard of each of these methods from the next rows."""
    keys = plan.shard_keys(number)
    writers = {}
    for method in methods:
        path = plan.folders[method] / shard_name(number)
        attributes = {
            "method": method,
            "parameters": plan.parameters[method],
            "software": software_versions(),
            "listing_digest": plan.digest,
        }
        shape = plan.shard_count, keys, plan.canvas(number), plan.compression
        writers[method] = ShardWriter(path, number, *shape, attributes)
    for i, key in enumerate(keys):
        row = next(rows)
        for method, writer in writers.items():
            chunk, status = row.masks.get(method, (None, row.status))
            writer.write(i, chunk, row.mask_size, row.image_size, status, row.error)
            if chunk is not None:
                summary.masks += 1
                summary.mask_bytes += len(chunk.data)
        statuses = [status for _, status in row.masks.values()]
        summary.count(key, min(statuses, default=row.status), row.error)
        summary.images += 1
    for writer in writers.values():
        writer.commit()
    summary.shards_written += 1


def _build_indices(plan: Plan, summary: Summary) -> None:
    """Write the index of each method whose shards are all there, and count those that are not."""
    for method, folder in plan.folders.items():
        there = shard_paths(folder)
        if plan.overwrite:  # other parts may not have overwritten theirs yet
            there = [path for path in there if not _difference(plan, method, path)]
        absent = plan.shard_count - len(there)
        summary.shards_missing = max(summary.shards_missing, absent)
        if not absent:
            build_index(folder)
