"""Methods that compute on a device: decoded by worker processes, finished by threads.

While the device computes a batch, the next one is put together and the last one's maps are resized
and compressed, so that it waits for nothing as long as the workers keep up.
"""

import queue
import threading
import time
from collections.abc import Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from data.device import as_current, memory_for, memory_layout
from data.masks.write import ChunkEncoder, Status, status_of
from saliency.batch import Block, Plan, RunTasks
from saliency.loading import death_of_a_worker
from saliency.methods.protocol import NetworkMethod
from saliency.prepared import Facts, Prepared, prepared_batches
from saliency.rows import Row, reason_of, to_uint8, without_mask

_QUEUED_BATCHES = 3  # finished batches that may wait for the writer


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
    method : NetworkMethod
    jobs : int
        Worker processes, and threads that finish masks; 1 works in this process alone.

    Attributes
    ----------
    busy_seconds, wall_seconds : float
        How long the device computed, and how long the whole took from its first batch on.
    """

    def __init__(self, method: NetworkMethod, jobs: int) -> None:
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
                for group in prepared_batches(plan, blocks, self.method, self.jobs):
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
            return without_mask(methods, Status.FAILED, reason_of(error), facts.image_size)
        chunks = dict.fromkeys(methods, chunk)
        statuses = dict.fromkeys(methods, status_of(mask))
        return Row(chunks, facts.mask_size, facts.image_size, statuses)

    def _encoder(self, canvas: int, compression: str) -> ChunkEncoder:
        """This thread's encoder; two are kept, for with --max-side 0 each shard has a canvas."""
        if not hasattr(self._local, "encoder"):
            self._local.encoder = lru_cache(maxsize=2)(ChunkEncoder)
        return self._local.encoder(canvas, compression)
