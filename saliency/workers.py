"""Where tasks run: this process, joblib's processes, or a Dask or Ray cluster."""

import multiprocessing.resource_tracker
import os
import pkgutil
import signal
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from functools import lru_cache, partial
from itertools import islice
from typing import Any

import cv2
import joblib
from joblib.externals.loky import get_reusable_executor
from joblib.externals.loky.backend import resource_tracker
from joblib.externals.loky.process_executor import BrokenProcessPool
from threadpoolctl import threadpool_limits

from data.errors import UserError
from data.processes import signals_held_from_children, sweep_after_death, usable_cores
from saliency.batch import Block, Plan
from saliency.rows import Row, compute_rows

Task = Callable[[], Any]


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
            raise UserError(
                f"--scheduler {scheduler} needs a cluster; add --backend dask or --backend ray."
            )
        self.jobs = usable_cores() if jobs == -1 else jobs
        self.close: Callable[[], None] = lambda: None  # waits for workers to end, or disconnects
        self._backend = {"processes": "loky"}.get(backend, backend)
        if backend == "processes":
            if self.jobs > 1:
                self.close = _end_processes
            return
        try:
            connect = {"dask": _connect_dask, "ray": _connect_ray}[backend]
            self.jobs, self.close = connect(scheduler, self.jobs)
        except ImportError:
            raise UserError(
                f"--backend {backend} needs a package: pip install 'dilo[{backend}]'."
            ) from None
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
    from dask.distributed import Client

    if scheduler:
        client = Client(scheduler, timeout=30)
    else:
        client = Client(n_workers=jobs, threads_per_worker=1, dashboard_address=None)
    try:
        client.run_on_scheduler(pkgutil.resolve_name, "saliency.rows:compute_rows")
        client.run(pkgutil.resolve_name, "saliency.rows:compute_rows")
    except (ImportError, AttributeError):  # without it, dask would wait indefinitely
        raise UserError(
            f"--scheduler {scheduler}: the machines of this Dask cluster do not have DiLo; "
            "install it there too, in the same version."
        ) from None
    return max(1, sum(client.nthreads().values())), client.close


def _connect_ray(scheduler: str | None, jobs: int) -> tuple[int, Callable[[], None]]:
    import ray
    from ray.util.joblib import register_ray

    cores = None if scheduler else jobs
    ray.init(scheduler, num_cpus=cores, log_to_driver=False, logging_level="error")
    register_ray()
    return max(1, int(ray.cluster_resources().get("CPU", 1))), ray.shutdown


@lru_cache
def _sweep_once(process: int) -> None:
    sweep_after_death()


def _end_processes() -> None:
    get_reusable_executor(reuse=True).shutdown(wait=True)


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
