"""The batch stage: a folder of images in, a folder of mask shards out, over many processes.

Workers decode, compute and compress a few images at a time; the parent is the only writer, and
writes shards in order, each under a temporary name until it is whole. So a shard is the unit of
resume, a crash loses at most the one being written, every core works on it even where there is only
one, and workers on other machines need to see only the images.
"""

import json
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from data.errors import UserError
from data.masks.index import INDEX_NAME, build_index
from data.masks.write import (
    ShardWriter,
    Status,
    open_shard,
    read_header,
    remove_stale_files,
    shard_name,
    shard_paths,
)
from data.software import software_versions
from saliency.overwriting import forget, old_shards
from saliency.plan import Block, Plan
from saliency.rows import Row, compute_rows, longest_side
from saliency.stopping import raise_if_stopped
from saliency.summary import Summary

_BLOCK = 16  # images a task: about a tenth of a second, small beside a shard, large beside overhead

RunTasks = Callable[[Iterable[Callable[[], Any]]], Generator[Any]]
"""Runs tasks, wherever, and yields their results in order (`saliency.workers`)."""


ComputeBlocks = Callable[[Plan, Iterable[Block], RunTasks], Generator[list[Row]]]
"""Yields the blocks' rows, in order, some at a time. `compute_on_workers` is the one for CPUs."""


def make_shards(
    plan: Plan,
    run_tasks: RunTasks,
    show_progress: bool | None = None,
    compute_blocks: ComputeBlocks | None = None,
) -> Summary:
    """Write every shard of the plan's part that is not there yet, then the index.

    Parameters
    ----------
    plan : Plan
    run_tasks : RunTasks
    show_progress : bool, optional
        None: only where stderr is a terminal.
    compute_blocks : ComputeBlocks, optional
        Where and how maps are computed: `compute_on_workers` unless given.

    Returns
    -------
    Summary

    Raises
    ------
    UserError
        An output folder holds something else, or cannot be written.
    """
    digest = plan.keys.digest()
    old = {
        method: _prepare(plan, method, folder, digest) for method, folder in plan.folders.items()
    }
    summary = Summary()
    missing: dict[int, list[str]] = {}
    for number in plan.own_shards:
        methods = _missing_methods(plan, number, old)
        if methods:
            missing[number] = methods
        else:
            _count_kept(plan, number, summary)
    attributes = {
        "parameters": plan.parameters,
        "software": software_versions(),
        "listing_digest": digest,
    }
    bar = partial(
        tqdm,
        total=sum(plan.rows(number).stop - plan.rows(number).start for number in missing),
        unit=" images",
        smoothing=0.05,
        disable=None if show_progress is None else not show_progress,
    )
    canvases = _canvases(plan, list(missing), run_tasks, bar)
    blocks = (
        Block(plan.keys[rows], canvases[number], number)
        for number in missing
        for rows in _block_rows(plan, number)
    )
    results = (compute_blocks or compute_on_workers)(plan, blocks, run_tasks)
    with closing(results), bar() as progress:
        for number, methods in missing.items():
            _write_shard(
                plan, number, methods, canvases[number], attributes, results, summary, progress
            )
    for method, folder in plan.folders.items():
        if plan.overwrite:
            _remove_surplus(plan, folder)
        forget(folder, plan.part, plan.parts)
        there = shard_paths(folder)
        if plan.overwrite and plan.parts > 1:  # the others may not have overwritten theirs yet
            there = [path for path in there if not _difference(plan, method, digest, path)]
        absent = plan.shard_count - len(there)
        summary.shards_missing = max(summary.shards_missing, absent)
        if not absent:
            build_index(folder)
    return summary


def compute_on_workers(
    plan: Plan, blocks: Iterable[Block], run_tasks: RunTasks
) -> Generator[list[Row]]:
    """Decode, compute and compress in the workers."""
    return run_tasks(
        partial(
            compute_rows,
            plan.root,
            list(block.keys),
            plan.map_function,
            tuple(plan.folders),
            plan.max_side,
            block.canvas,
            plan.compression,
        )
        for block in blocks
    )


def _prepare(plan: Plan, method: str, folder: Path, digest: str) -> set[int]:
    """Make the folder ready: nothing of another set in it, no left-overs of a killed run.

    Returns the shards that are there and to be overwritten.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"the output folder {str(folder)!r} cannot be made "
            f"({(error.strerror or str(error)).lower()}); choose another OUT."
        ) from None
    remove_stale_files(folder, plan.own_shards)
    if plan.overwrite:
        settings = {
            "method": method,
            "parameters": plan.parameters,
            "software": software_versions(),
            "listing_digest": digest,
            "shard_size": plan.shard_size,
            "compression": plan.compression,
        }
        return old_shards(folder, plan.own_shards, settings, plan.part, plan.parts)
    for path in shard_paths(folder):
        difference = _difference(plan, method, digest, path)
        if difference:
            raise UserError(
                f"{str(folder)!r} already holds shards {difference}; choose another OUT, "
                "or replace them by --overwrite."
            )
    return set()


def _remove_surplus(plan: Plan, folder: Path) -> None:
    """Remove shards that a set of more images had, or of smaller shards."""
    for path in shard_paths(folder):
        if int(path.stem.rpartition("-")[2]) >= plan.shard_count:
            path.unlink(missing_ok=True)
            (folder / INDEX_NAME).unlink(missing_ok=True)


def _difference(plan: Plan, method: str, digest: str, path: Path) -> str | None:
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
    rows = plan.rows(header.number)
    if header.count != plan.shard_count or header.images != rows.stop - rows.start:
        return f"of another --shard-size ({header.count} shards, not {plan.shard_count})"
    return None


def _missing_methods(plan: Plan, number: int, old: dict[str, set[int]]) -> list[str]:
    """The methods whose shard of this number is not there, or is to be overwritten."""
    name = shard_name(number)
    return [
        method
        for method, folder in plan.folders.items()
        if number in old[method] or not (folder / name).exists()
    ]


def _count_kept(plan: Plan, number: int, summary: Summary) -> None:
    """Count the images of a shard that an earlier run has finished."""
    statuses = []
    for folder in plan.folders.values():
        with open_shard(folder / shard_name(number)) as file:
            statuses.append(file["status"][:])
            errors = file["error"].asstr()[:]  # alike in all
    keys = plan.keys[plan.rows(number)]
    for key, status, error in zip(keys, np.min(statuses, axis=0), errors, strict=True):
        summary.count(key, Status(status), error)
    summary.shards_kept += 1


def _block_rows(plan: Plan, number: int) -> Iterator[slice]:
    """Cut a shard's rows into blocks."""
    rows = plan.rows(number)
    for start in range(rows.start, rows.stop, _BLOCK):
        yield slice(start, min(start + _BLOCK, rows.stop))


def _canvases(
    plan: Plan, numbers: list[int], run_tasks: RunTasks, bar: Callable[..., tqdm]
) -> dict[int, int]:
    """Choose each shard's raster side: the cap, or else the longest side among its images."""
    if plan.max_side:
        return dict.fromkeys(numbers, plan.max_side)
    canvases = dict.fromkeys(numbers, 1)
    tasks = (
        partial(_longest_side, plan.root, number, list(plan.keys[rows]))
        for number in numbers
        for rows in _block_rows(plan, number)
    )
    with closing(run_tasks(tasks)) as results, bar(desc="image sizes") as progress:
        for number, longest, images in results:
            raise_if_stopped()
            canvases[number] = max(canvases[number], longest)
            progress.update(images)
    return canvases


def _longest_side(images: str, number: int, keys: list[str]) -> tuple[int, int, int]:
    return number, longest_side(images, keys), len(keys)


def _write_shard(
    plan: Plan,
    number: int,
    methods: list[str],
    canvas: int,
    attributes: dict[str, Any],
    results: Iterator[list[Row]],
    summary: Summary,
    progress: tqdm,
) -> None:
    """Write one shard of each of these methods from the next results."""
    keys = plan.keys[plan.rows(number)]
    with ExitStack() as writing:
        writers = {
            method: writing.enter_context(
                ShardWriter(
                    plan.folders[method] / shard_name(number),
                    number,
                    plan.shard_count,
                    keys,
                    canvas,
                    plan.compression,
                    {**attributes, "method": method},
                )
            )
            for method in methods
        }
        row = 0
        while row < len(keys):
            raise_if_stopped()
            for result in next(results):
                for method, writer in writers.items():
                    chunk, status = result.chunks.get(method), result.statuses[method]
                    writer.write(
                        row, chunk, result.mask_size, result.image_size, status, result.error
                    )
                    if chunk is not None:
                        summary.masks += 1
                        summary.mask_bytes += len(chunk.data)
                summary.count(keys[row], min(result.statuses.values()), result.error)
                summary.images += 1
                row += 1
                progress.update()
        for writer in writers.values():
            writer.commit()
    summary.shards_written += 1
