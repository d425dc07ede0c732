"""Methods that compute on a device: decoded by worker processes, finished by threads.

The loop is one batch behind: while the device computes a batch, the masks of the one before are
resized and compressed, and those before them written, so that it waits for nothing as long as the
workers keep up.
"""

import time
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from data.device import Fetched, as_current, memory_layout
from data.images.listing import key_path
from data.loading import Loader, as_tensor
from saliency.batch import Block, Plan
from saliency.methods.protocol import NetworkMethod
from saliency.workers import Row, compressed, decoded, reason_of


class Image(NamedTuple):
    """An image in a batch.

    shard : its number.
    row : what is known of it, without its masks yet.
    input : (3, S, S); None: it gets no mask.
    """

    key: str
    shard: int
    row: Row
    input: Tensor | None = None


Batch = list[Image]


class _PreparedBlocks:
    """Item i is block i, decoded and prepared: its images, which of them have an input, and those
    inputs (N, 3, S, S).
    """

    def __init__(self, plan: Plan, blocks: Sequence[Block], method: NetworkMethod) -> None:
        self.root, self.max_side = plan.root, plan.max_side
        self.blocks = blocks
        self.decode_side, self.prepare = method.decode_side, method.prepare

    def __getitem__(self, index: int) -> tuple[list[Image], list[bool], Tensor]:
        block = self.blocks[index]
        rows, arrays = zip(*map(self._prepared, block.keys), strict=True)
        images = [Image(key, block.shard, row) for key, row in zip(block.keys, rows, strict=True)]
        inputs = [array for array in arrays if array is not None]
        stacked = np.stack(inputs) if inputs else np.zeros((0, 3, 1, 1), np.float32)
        return images, [array is not None for array in arrays], as_tensor(stacked)

    def _prepared(self, key: str) -> tuple[Row, np.ndarray | None]:
        row, pixels = decoded(key_path(self.root, key), self.max_side, self.decode_side)
        if pixels is None:
            return row, None
        try:
            return row, self.prepare(pixels)
        except Exception as error:  # one odd image must not end hours of work
            return row._replace(error=reason_of(error)), None


def batches(
    plan: Plan, blocks: Sequence[Block], method: NetworkMethod, jobs: int
) -> Iterator[Batch]:
    """Yield the blocks' images in order, as many of one shard as a batch may hold.

    jobs : worker processes; 1 works in this process alone.

    A network's last bits depend on what else is in the batch; so a shard's masks are the same
    whichever shards are made before it.
    """
    dataset = _PreparedBlocks(plan, blocks, method)
    loader = Loader(dataset, range(len(blocks)), jobs if jobs > 1 else 0)
    batch: Batch = []
    count = 0  # of those with an input
    for images, prepared, inputs in loader:
        rest = iter(inputs)
        for image, has_input in zip(images, prepared, strict=True):
            full = has_input and count == method.batch_size
            if batch and (full or image.shard != batch[0].shard):
                yield batch
                batch, count = [], 0
            batch.append(image._replace(input=next(rest)) if has_input else image)
            count += has_input
    if batch:
        yield batch


class _Running(NamedTuple):
    """A batch that the device works on.

    results : of those with an input, if there is any.
    events : of a GPU: the batch was sent, and computed.
    """

    batch: Batch
    results: Fetched | None = None
    events: Sequence[torch.cuda.Event] = ()


class DeviceStage:
    """Turns blocks of images into rows of masks, by a method on a device (`make_shards`).

    method : what computes.
    jobs : worker processes, and threads that finish masks; 1 works in this process alone.
    busy_seconds, wall_seconds : how long the device computed, and how long the whole took from its
        first batch on.
    """

    def __init__(self, method: NetworkMethod, jobs: int) -> None:
        self.method = method
        self.jobs = jobs
        self.busy_seconds = 0.0
        self.wall_seconds = 0.0
        self._first: float | None = None  # when the first batch was launched

    @property
    def waiting_share(self) -> float:
        """The share of the time for which the device waited, in [0, 1]."""
        return max(0.0, 1 - self.busy_seconds / self.wall_seconds) if self.wall_seconds else 0.0

    def __call__(self, plan: Plan, blocks: Iterable[Block]) -> Generator[list[Row]]:
        """Yield the blocks' rows, in order, a batch at a time."""
        pool = ThreadPoolExecutor(self.jobs, thread_name_prefix="finish")
        running = _Running([])
        rows: Iterator[Row] = iter(())
        try:
            with as_current(self.method.device):
                for batch in batches(plan, list(blocks), self.method, self.jobs):
                    launched = self._launch(batch)
                    yield list(rows)  # of the batch before the one that runs
                    rows = self._finish(running, plan, pool)
                    running = launched
                yield list(rows)
                yield list(self._finish(running, plan, pool))
        finally:
            pool.shutdown(cancel_futures=True)

    def _launch(self, batch: Batch) -> _Running:
        """Send a batch to the device; on a GPU without waiting for it."""
        now = time.perf_counter()
        self._first = now if self._first is None else self._first
        inputs = [image.input for image in batch if image.input is not None]
        if not inputs:
            return _Running(batch)
        keys = [image.key for image in batch if image.input is not None]
        device, gpu = self.method.device, self.method.device.type == "cuda"
        events = [torch.cuda.Event(enable_timing=True) for _ in range(2)] if gpu else []
        stacked = torch.empty((len(inputs), *inputs[0].shape), pin_memory=gpu)
        torch.stack(inputs, out=stacked)
        if gpu:
            events[0].record()
        stacked = stacked.to(device, non_blocking=gpu, memory_format=memory_layout(device))
        results = self.method.compute(stacked, keys).float()  # NumPy has no bfloat16
        if gpu:
            events[1].record()
        results = Fetched(results, device)
        if not gpu:
            self._count(time.perf_counter() - now)
        return _Running(batch, results, events)

    def _count(self, seconds: float) -> None:
        self.busy_seconds += seconds
        self.wall_seconds = time.perf_counter() - self._first

    def _finish(self, running: _Running, plan: Plan, pool: ThreadPoolExecutor) -> Iterator[Row]:
        """Wait for a batch, and hand each of its images to a thread; their rows, in order."""
        arrays: Iterator[np.ndarray] = iter(())
        if running.results is not None:
            arrays = iter(running.results.wait().numpy())
        if running.events:
            sent, computed = running.events
            self._count(sent.elapsed_time(computed) / 1000)
        maps = [None if image.input is None else next(arrays) for image in running.batch]
        canvas = plan.canvas(running.batch[0].shard) if running.batch else 1
        return pool.map(partial(self._row, plan, canvas), running.batch, maps)

    def _row(self, plan: Plan, canvas: int, image: Image, result: np.ndarray | None) -> Row:
        """Make a row of an image and the network's result for it."""
        row = image.row
        if image.input is None:
            return row
        try:
            if not np.isfinite(result).all():
                raise ValueError("the network's output is not finite")
            saliency = self.method.finish(result, image.input.numpy(), row.mask_size)
            mask = compressed(saliency, canvas, plan.compression)
        except Exception as error:  # one odd image must not end hours of work
            return row._replace(error=reason_of(error))
        return row._replace(masks=dict.fromkeys(plan.folders, mask))
