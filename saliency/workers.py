"""The work on an image, and where it is done: here, in joblib's processes, on Dask or Ray."""

from __future__ import annotations

import multiprocessing.resource_tracker
import os
import pkgutil
import signal
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache, partial
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

import cv2
import joblib
import numpy as np
from joblib.externals.loky import get_reusable_executor
from joblib.externals.loky.backend import resource_tracker
from joblib.externals.loky.process_executor import BrokenProcessPool
from threadpoolctl import threadpool_limits

from data.errors import UserError, import_extra
from data.images.decode import UnreadableImage, capped_size, open_image, read_size
from data.images.limits import MAX_SIDE
from data.images.listing import key_path
from data.masks.format import Chunk, ChunkEncoder, Status, status_of
from data.processes import signals_held_from_children, sweep_after_death, usable_cores

if TYPE_CHECKING:
    from saliency.batch import Block, Plan

Task = Callable[[], Any]
MapFunction = Callable[[np.ndarray], dict[str, np.ndarray]]
"""An image, uint8 (h, w, 3), to float maps (h, w) in [0, 1] by method."""


# ---- an image ------------------------------------------------------------------------------------


class Row(NamedTuple):
    """An image's results, as a worker sends them; sizes are (height, width).

    masks : of each method, with its status: a mask may be all zero by one and not by another.
    status, error : why there is none. Of an image that is damaged inside, `error` is a remark.
    """

    masks: dict[str, tuple[Chunk, Status]]
    image_size: tuple[int, int] = (0, 0)
    mask_size: tuple[int, int] = (0, 0)
    status: Status = Status.FAILED
    error: str = ""


def compute_rows(
    images: str,
    keys: list[str],
    map_function: MapFunction,
    methods: tuple[str, ...],
    max_side: int,
    canvas: int,
    compression: str,
) -> list[Row]:
    """Decode, compute and compress some images. An image that fails is a row with a reason."""
    rows = []
    for key in keys:
        row, image = decoded(key_path(images, key), max_side, max_side)
        if image is not None:
            try:
                maps = map_function(image)
                masks = {name: compressed(maps[name], canvas, compression) for name in methods}
                row = row._replace(masks=masks)
            except Exception as error:  # one odd image must not end hours of work
                row = row._replace(error=reason_of(error))
        rows.append(row)
    return rows


def decoded(path: str, max_side: int, decode_side: int) -> tuple[Row, np.ndarray | None]:
    """Decode an image to uint8 (h, w, 3), None where it gets no mask; and what is known of it.

    max_side, decode_side : caps of the long side of its mask, and of what is decoded.
    """
    try:
        opened = open_image(path)
        pixels, _ = opened.decode(max_side=decode_side)
    except UnreadableImage as reason:
        return Row({}, status=Status.UNREADABLE, error=str(reason)), None
    mask_size = capped_size(opened.size, max_side)
    if reason := _too_long(mask_size):
        return Row({}, opened.size, error=reason), None
    return Row({}, opened.size, mask_size, error=opened.remark), pixels


_of_thread = threading.local()


def compressed(saliency: np.ndarray, canvas: int, compression: str) -> tuple[Chunk, Status]:
    """Return a map, float in [0, 1], as a shard stores it."""
    if not hasattr(_of_thread, "encoder"):  # two are kept: a shard may have a canvas of its own
        _of_thread.encoder = lru_cache(maxsize=2)(ChunkEncoder)
    mask = to_uint8(saliency)
    return _of_thread.encoder(canvas, compression).encode(mask), status_of(mask)


def to_uint8(saliency: np.ndarray) -> np.ndarray:
    """Quantise a map, float in [0, 1], to uint8, halves rounded up as MATLAB does."""
    return (saliency * 255 + 0.5).astype(np.uint8)


def reason_of(error: Exception) -> str:
    """Return an exception as the reason in a row: its type and message in one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())


def _too_long(size: tuple[int, int]) -> str:
    """Say that a mask of this (height, width) is too long; empty where it is not."""
    height, width = size
    if max(height, width) <= MAX_SIDE:
        return ""
    return f"{width}x{height} pixels, longer than {MAX_SIDE:,}: give it --max-side"


def longest_side(images: str, keys: Iterable[str]) -> int:
    """Return the longest side among some images, at least 1, from their headers."""
    with ThreadPoolExecutor(8) as pool:  # a file system far away answers several at a time
        return max(pool.map(partial(_long_side, images), keys))


def _long_side(images: str, key: str) -> int:
    """Return an image's longer side; 1 where it gets no mask, unreadable or too long."""
    try:
        size = read_size(key_path(images, key))
    except UnreadableImage:
        return 1
    return 1 if _too_long(size) else max(1, *size)


# ---- the processes -------------------------------------------------------------------------------


class Workers:
    """Runs tasks, and yields their results in order.

    jobs : processes; -1: as many as cores that this process may use; 1 works in this process.
    backend : "processes", "dask" or "ray"; the latter need their package
        (`pip install 'dilo[dask]'`).
    scheduler : address of a Dask scheduler or Ray head; None: start one on this machine.

    Raises UserError: the package is missing or the scheduler does not answer.
    """

    def __init__(self, jobs: int = -1, backend: str = "processes", scheduler: str | None = None):
        if backend == "processes" and scheduler is not None:
            raise UserError(f"--scheduler {scheduler} needs a cluster; add --backend dask or ray.")
        self.jobs = usable_cores() if jobs == -1 else jobs
        self.close: Callable[[], None] = lambda: None  # waits for workers to end, or disconnects
        self._backend = {"processes": "loky"}.get(backend, backend)
        if backend == "processes":
            if self.jobs > 1:
                self.close = lambda: get_reusable_executor(reuse=True).shutdown(wait=True)
            return
        try:
            connect = {"dask": _connect_dask, "ray": _connect_ray}[backend]
            self.jobs, self.close = connect(scheduler, self.jobs)
        except (OSError, ValueError) as error:
            reason = " ".join(str(error).split())
            raise UserError(
                f"--scheduler {scheduler}: no {backend.capitalize()} cluster answers ({reason}); "
                "check the address."
            ) from None

    def compute(self, plan: Plan, blocks: Iterable[Block]) -> Generator[list[Row]]:
        """Decode, compute and compress blocks of images, for `make_shards`."""
        return self.run(
            partial(
                compute_rows,
                plan.root,
                list(block.keys),
                plan.map_function,
                tuple(plan.folders),
                plan.max_side,
                plan.canvas(block.shard),
                plan.compression,
            )
            for block in blocks
        )

    def run(self, tasks: Iterable[Task]) -> Generator[Any]:
        """Yield each task's result, in order, while later tasks already run.

        Closed early, it waits for the tasks that were handed out, at most two a process.

        Raises UserError: a worker process was killed from outside.
        """
        if self.jobs == 1 and self._backend == "loky":
            yield from map(_single_threaded, tasks)
            return
        closed = False

        def calls() -> Iterator[tuple]:
            for task in tasks:
                if closed:
                    return
                yield joblib.delayed(_single_threaded)(task)

        try:
            results = self._start(calls())
            try:
                for result in results:  # noqa: UP028 - `yield from` would close it first
                    yield result
            finally:
                closed = True
                for _ in results:  # processes that are killed at work leave semaphores behind
                    pass
        except BrokenProcessPool:
            raise UserError(
                "a worker process was killed (out of memory?); run the same command again, "
                f"with fewer than --jobs {self.jobs} if it happens again: it goes on where it "
                "stopped."
            ) from None

    def _start(self, calls: Iterator[tuple]) -> Iterator[Any]:
        if self._backend == "ray":  # its backend gives no results before the last
            return self._start_batches(calls)
        own = {"inner_max_num_threads": 1, "initializer": _begin_worker, "initargs": (os.getpid(),)}
        options = own if self._backend == "loky" else {}
        with joblib.parallel_config(self._backend, n_jobs=self.jobs, **options):
            parallel = joblib.Parallel(return_as="generator", batch_size=1, pre_dispatch="2*n_jobs")
        if self._backend == "loky":
            _sweep_once(os.getpid())
        resource_tracker.ensure_running()  # before: starting these sets the mask of signals too
        multiprocessing.resource_tracker.ensure_running()
        with signals_held_from_children():
            return parallel(calls)

    def _start_batches(self, calls: Iterator[tuple]) -> Iterator[Any]:
        with joblib.parallel_config(self._backend, n_jobs=self.jobs):
            parallel = joblib.Parallel()
        while some := list(islice(calls, 16 * self.jobs)):
            yield from parallel(some)


def _connect_dask(scheduler: str | None, jobs: int) -> tuple[int, Callable[[], None]]:
    distributed = import_extra("dask.distributed", "dask", "--backend dask")
    if scheduler:
        client = distributed.Client(scheduler, timeout=30)
    else:
        client = distributed.Client(n_workers=jobs, threads_per_worker=1, dashboard_address=None)
    try:
        client.run_on_scheduler(pkgutil.resolve_name, "saliency.workers:compute_rows")
        client.run(pkgutil.resolve_name, "saliency.workers:compute_rows")
    except (ImportError, AttributeError):  # without it, dask would wait indefinitely
        raise UserError(
            f"--scheduler {scheduler}: the machines of this Dask cluster do not have DiLo; "
            "install it there too, in the same version."
        ) from None
    return max(1, sum(client.nthreads().values())), client.close


def _connect_ray(scheduler: str | None, jobs: int) -> tuple[int, Callable[[], None]]:
    ray = import_extra("ray", "ray", "--backend ray")
    from ray.util.joblib import register_ray

    cores = None if scheduler else jobs
    ray.init(scheduler, num_cpus=cores, log_to_driver=False, logging_level="error")
    register_ray()
    return max(1, int(ray.cluster_resources().get("CPU", 1))), ray.shutdown


@lru_cache
def _sweep_once(process: int) -> None:
    sweep_after_death()


def _single_threaded(task: Task) -> Any:
    """Run a task with one thread: the parallelism is over images."""
    _limit_threads()
    return task()


@lru_cache
def _limit_threads() -> threadpool_limits:
    cv2.setNumThreads(1)
    return threadpool_limits(1)  # of BLAS and OpenMP, for as long as this is kept


def _begin_worker(parent: int) -> None:
    """In a worker: leave signals to the parent, and end soon after it where it was killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
