"""Methods that compute on a device: decoded by worker processes, finished by threads.

While the device computes a batch, the next one is put together and the last one's maps are resized
and compressed, so that it waits for nothing as long as the workers keep up.
"""

import queue
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from data.images import UnreadableImage, capped_size, decode, key_path
from data.shards import ChunkEncoder, Status, status_of
from saliency.batch import Block, Plan, RunTasks
from saliency.device import as_current, memory_for, memory_layout
from saliency.loading import WorkerLoader, death_of_a_worker
from saliency.rows import Row, to_uint8, without_mask

_QUEUED_BATCHES = 3  # finished batches that may wait for the writer


class LearnedMethod(Protocol):
    """What the pipeline asks of a method.

    Attributes
    ----------
    device : torch.device
    batch_size : int
        The largest batch.
    decode_side : int
        Cap of the decoded image's long side in pixels; 0 for the image as it is.
    prepare : callable
        uint8 RGB (h, w, 3) to float32 (3, S, S); picklable, it runs in worker processes.
    """

    device: torch.device
    batch_size: int
    decode_side: int
    prepare: Callable[[np.ndarray], np.ndarray]

    def compute(self, batch: Tensor, keys: list[str]) -> Tensor:
        """Prepared images (N, 3, S, S) on the device, and their keys, to (N, h, w) there.

        Of any floating dtype.
        """

    def finish(self, result: np.ndarray, prepared: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        """One image's result, float32 (h, w), to its map of `size`, in [0, 1]."""


class Facts(NamedTuple):
    """What is known of an image besides its pixels."""

    image_size: tuple[int, int]  # (height, width), upright
    mask_size: tuple[int, int]  # its long side capped
    error: str = ""  # why it has no mask, or empty
    status: Status = Status.UNREADABLE  # where there is an error


class Prepared(NamedTuple):
    """A block of images from a worker: the readable ones' inputs (N, 3, S, S), and all facts."""

    block: Block
    inputs: Tensor
    facts: list[Facts]

    def split(self, images: int) -> "tuple[Prepared, Prepared]":
        """The part with so many readable images, and the rest."""
        rows = [row for row, facts in enumerate(self.facts) if not facts.error]
        row = rows[images] if images < len(rows) else len(self.facts)
        return (
            self._part(slice(row), slice(images)),
            self._part(slice(row, None), slice(images, None)),
        )

    def _part(self, rows: slice, images: slice) -> "Prepared":
        block = self.block._replace(keys=self.block.keys[rows])
        return Prepared(block, self.inputs[images], self.facts[rows])


class _PreparedBlocks(Dataset):
    """Item i is block i, decoded and prepared."""

    def __init__(self, plan: Plan, blocks: Sequence[Block], method: LearnedMethod) -> None:
        self.root = plan.root
        self.blocks = blocks
        self.max_side = plan.max_side
        self.decode_side = method.decode_side
        self.prepare = method.prepare

    def __len__(self) -> int:
        return len(self.blocks)

    def __getitem__(self, index: int) -> Prepared:
        block = self.blocks[index]
        inputs, facts = [], []
        for key in block.keys:
            try:
                image, image_size = decode(key_path(self.root, key), self.decode_side)
            except UnreadableImage as reason:
                facts.append(Facts((0, 0), (0, 0), str(reason)))
                continue
            try:
                inputs.append(self.prepare(image))
            except Exception as error:  # one odd image must not end hours of work
                facts.append(Facts(image_size, (0, 0), _reason(error), Status.FAILED))
                continue
            facts.append(Facts(image_size, capped_size(image_size, self.max_side)))
        stacked = np.stack(inputs) if inputs else np.zeros((0, 3, 1, 1), np.float32)
        return Prepared(block, torch.from_numpy(stacked), facts)


@dataclass
class _Running:
    """A batch that the device works on."""

    blocks: list[Prepared]
    results: Tensor  # on the CPU; complete once `done` has happened
    started: torch.cuda.Event | None = None
    computed: torch.cuda.Event | None = None
    done: torch.cuda.Event | None = None


class LearnedStage:
    """Turns blocks of images into rows of masks, by a method on a device (`make_shards`).

    Parameters
    ----------
    method : LearnedMethod
    jobs : int
        Worker processes, and threads that finish masks; 1 works in this process alone.

    Attributes
    ----------
    busy_seconds, wall_seconds : float
        How long the device computed, and how long the whole took from its first batch on.
    """

    def __init__(self, method: LearnedMethod, jobs: int) -> None:
        self.method = method
        self.jobs = jobs
        self.busy_seconds = 0.0
        self.wall_seconds = 0.0
        self._first: float | None = None  # when the first batch was launched
        self._local = threading.local()

    @property
    def waiting_share(self) -> float:
        """The share of the time for which the device waited, in [0, 1]."""
        return max(0.0, 1 - self.busy_seconds / self.wall_seconds) if self.wall_seconds else 0.0

    def __call__(
        self, plan: Plan, blocks: Iterable[Block], run_tasks: RunTasks
    ) -> Generator[list[Row]]:
        """Yield the blocks' rows, in order.

        Raises
        ------
        UserError
            A worker process was killed, or the device's memory is too small for the batch.
        """
        waiting: queue.Queue = queue.Queue(_QUEUED_BATCHES)
        stop = threading.Event()
        with ThreadPoolExecutor(self.jobs, thread_name_prefix="finish") as pool:
            driver = threading.Thread(
                target=self._drive, args=(plan, list(blocks), pool, waiting, stop)
            )
            driver.start()
            try:
                while (item := waiting.get()) is not None:
                    if isinstance(item, BaseException):
                        raise death_of_a_worker(
                            item, "the same command", f"--jobs {self.jobs}"
                        ) from None
                    for rows in item:
                        yield [future.result() for future in rows]
            finally:
                stop.set()
                while driver.is_alive():  # it may be waiting for a place in the queue
                    try:
                        waiting.get(timeout=0.05)
                    except queue.Empty:
                        continue
                pool.shutdown(cancel_futures=True)

    def _drive(
        self,
        plan: Plan,
        blocks: Sequence[Block],
        pool: ThreadPoolExecutor,
        waiting: queue.Queue,
        stop: threading.Event,
    ) -> None:
        """Keep the device busy: launch a batch, then finish the one before it."""

        def hand_over(running: _Running) -> None:
            waiting.put(self._finish_batch(running, plan, pool))

        before: _Running | None = None
        try:
            with as_current(self.method.device):  # each thread has a current one of its own
                for group in self._groups(plan, blocks):
                    if stop.is_set():
                        return
                    running = self._launch(group)
                    if before is not None:
                        hand_over(before)
                    before = running
                if before is not None:
                    hand_over(before)
            waiting.put(None)
        except BaseException as error:  # told by the thread that asked
            waiting.put(error)

    def _groups(self, plan: Plan, blocks: Sequence[Block]) -> Iterator[list[Prepared]]:
        """Blocks and pieces of blocks, together as large as a batch may be, of one shard.

        A network's last bits depend on what else is in the batch; so a shard's masks are the same
        whichever shards are made before it.
        """
        size = self.method.batch_size
        loader = WorkerLoader(
            _PreparedBlocks(plan, blocks, self.method),
            self.jobs if self.jobs > 1 else 0,
            batch_size=None,
            collate_fn=_as_it_is,
        )
        group: list[Prepared] = []
        images = 0
        for prepared in loader:
            if group and prepared.block.shard != group[0].block.shard:
                yield group
                group, images = [], 0
            while images + len(prepared.inputs) >= size:
                head, prepared = prepared.split(size - images)
                yield [*group, head]
                group, images = [], 0
            if prepared.facts:
                group.append(prepared)
                images += len(prepared.inputs)
        if group:
            yield group

    def _launch(self, group: list[Prepared]) -> _Running:
        """Send a batch to the device; on a GPU without waiting for it."""
        now = time.perf_counter()
        if self._first is None:
            self._first = now
        device, gpu = self.method.device, self.method.device.type == "cuda"
        inputs = [prepared.inputs for prepared in group if len(prepared.inputs)]
        if not inputs:
            return _Running(group, torch.zeros(0, 1, 1))
        keys = [
            key
            for prepared in group
            for key, facts in zip(prepared.block.keys, prepared.facts, strict=True)
            if not facts.error
        ]
        shape = (sum(map(len, inputs)), *inputs[0].shape[1:])
        with memory_for(self.method.batch_size, device):
            batch = torch.cat(inputs, out=torch.empty(shape, pin_memory=gpu))
            if not gpu:
                results = self.method.compute(batch.to(device), keys).float().cpu()
                self.busy_seconds += time.perf_counter() - now
                self.wall_seconds = time.perf_counter() - self._first
                return _Running(group, results)
            marks = [torch.cuda.Event(enable_timing=True) for _ in range(3)]
            marks[0].record()
            batch = batch.to(device, non_blocking=True, memory_format=memory_layout(device))
            results = self.method.compute(batch, keys).float()  # NumPy has no bfloat16
            marks[1].record()
            there = torch.empty(results.shape, dtype=results.dtype, pin_memory=True)
            there.copy_(results, non_blocking=True)
            marks[2].record()
            return _Running(group, there, *marks)

    def _finish_batch(
        self, running: _Running, plan: Plan, pool: ThreadPoolExecutor
    ) -> list[list[Future]]:
        """Hand each image of a computed batch to a thread; futures of its rows by block."""
        if running.done is not None:
            with memory_for(self.method.batch_size, self.method.device):
                running.done.synchronize()
            self.busy_seconds += running.started.elapsed_time(running.computed) / 1000
            self.wall_seconds = time.perf_counter() - self._first
        results = iter(running.results.numpy())
        out = []
        for block, inputs, all_facts in running.blocks:
            arrays = iter(inputs.numpy())
            out.append(
                [
                    pool.submit(
                        self._finish_row,
                        facts,
                        None if facts.error else next(results),
                        None if facts.error else next(arrays),
                        block.canvas,
                        plan,
                    )
                    for facts in all_facts
                ]
            )
        return out

    def _finish_row(
        self,
        facts: Facts,
        result: np.ndarray | None,
        prepared: np.ndarray | None,
        canvas: int,
        plan: Plan,
    ) -> Row:
        methods = tuple(plan.folders)
        if facts.error:
            return without_mask(methods, facts.status, facts.error, facts.image_size)
        try:
            if not np.isfinite(result).all():
                raise ValueError("the network's output is not finite")
            mask = to_uint8(self.method.finish(result, prepared, facts.mask_size))
            chunk = self._encoder(canvas, plan.compression).encode(mask)
        except Exception as error:  # one odd image must not end hours of work
            return without_mask(methods, Status.FAILED, _reason(error), facts.image_size)
        chunks = dict.fromkeys(methods, chunk)
        statuses = dict.fromkeys(methods, status_of(mask))
        return Row(chunks, facts.mask_size, facts.image_size, statuses)

    def _encoder(self, canvas: int, compression: str) -> ChunkEncoder:
        """This thread's encoder."""
        encoders = self._local.__dict__.setdefault("encoders", {})
        key = (canvas, compression)
        if key not in encoders:
            encoders[key] = ChunkEncoder(canvas, compression)
        return encoders[key]


def _reason(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())


def _as_it_is(prepared: Prepared) -> Prepared:
    return prepared
