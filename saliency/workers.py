"""Where tasks run: this process, joblib's processes, or a Dask or Ray cluster."""

import contextlib
import multiprocessing
import multiprocessing.resource_tracker
import os
import pkgutil
import signal
import threading
import time
import warnings
from collections.abc import Callable, Generator, Iterable, Iterator
from itertools import islice
from typing import Any

import cv2
import joblib
from joblib.externals.loky import get_reusable_executor
from joblib.externals.loky.backend import resource_tracker
from joblib.externals.loky.process_executor import BrokenProcessPool
from threadpoolctl import threadpool_limits

from data.errors import UserError
from data.processes import signals_held_from_children, usable_cores

Task = Callable[[], Any]


class Workers:
    """Run tasks in order of their results.

    Parameters
    ----------
    jobs : int
        Processes; -1 for one per core that this process may use. 1 works in this process.
    backend : {"processes", "dask", "ray"}
        Where they are. Dask and Ray need their package (`pip install 'dilo[dask]'`).
    scheduler : str, optional
        Address of a Dask scheduler or Ray head; without it, one is started on this machine.

    Raises
    ------
    UserError
        The package is missing or the scheduler does not answer.
    """

    def __init__(self, jobs: int = -1, backend: str = "processes", scheduler: str | None = None):
        if backend == "processes" and scheduler is not None:
            raise UserError(
                f"--scheduler {scheduler} needs a cluster; add --backend dask or --backend ray."
            )
        self.jobs = usable_cores() if jobs == -1 else jobs
        self._close = contextlib.ExitStack()
        if backend == "dask":
            self._connect_dask(scheduler)
        elif backend == "ray":
            self._connect_ray(scheduler)
        elif self.jobs > 1:
            self._close.callback(_kill_processes)
        self._backend = {"processes": "loky"}.get(backend, backend)

    def run(self, tasks: Iterable[Task]) -> Generator[Any]:
        """Yield each task's result, in order, while later tasks already run.

        Raises
        ------
        UserError
            A worker process was killed from outside.
        """
        if self.jobs == 1 and self._backend == "loky":
            yield from (single_threaded(task) for task in tasks)
            return
        try:
            if self._backend == "ray":  # its backend gives no results before the last
                yield from self._run_in_batches(tasks)
            else:
                resource_tracker.ensure_running()  # before: starting these sets the mask too
                multiprocessing.resource_tracker.ensure_running()
                with self._configuration(), signals_held_from_children():
                    results = joblib.Parallel(
                        return_as="generator", batch_size=1, pre_dispatch="3*n_jobs"
                    )(map(_call, tasks))
                try:
                    for result in results:  # noqa: UP028 - `yield from` would close it first
                        yield result
                finally:
                    _expect_cut_off()
                    with warnings.catch_warnings():  # of tasks that are given up
                        warnings.simplefilter("ignore")
                        results.close()
        except BrokenProcessPool:
            raise UserError(
                "a worker process was killed (out of memory?); run the same command again, "
                f"with fewer than --jobs {self.jobs} if it happens again: it goes on where it "
                "stopped."
            ) from None

    def _run_in_batches(self, tasks: Iterable[Task]) -> Iterator[Any]:
        calls = map(_call, tasks)
        with self._configuration():
            parallel = joblib.Parallel()
        while some := list(islice(calls, 16 * self.jobs)):
            yield from parallel(some)

    def _configuration(self) -> joblib.parallel_config:
        if self._backend != "loky":
            return joblib.parallel_config(self._backend, n_jobs=self.jobs)
        return joblib.parallel_config(
            "loky",
            n_jobs=self.jobs,
            inner_max_num_threads=1,
            initializer=_begin_worker,
            initargs=(os.getpid(),),
        )

    def _connect_dask(self, scheduler: str | None) -> None:
        try:
            from dask.distributed import Client
        except ImportError:
            raise UserError(_missing("dask")) from None
        try:
            client = (
                Client(scheduler, timeout=30)
                if scheduler
                else Client(n_workers=self.jobs, threads_per_worker=1, dashboard_address=None)
            )
        except (OSError, TimeoutError, ValueError) as error:
            raise UserError(_no_answer("Dask", scheduler, error)) from None
        self._close.callback(client.close)
        try:
            client.run_on_scheduler(pkgutil.resolve_name, "saliency.rows:compute_rows")
            client.run(pkgutil.resolve_name, "saliency.rows:compute_rows")
        except (ImportError, AttributeError):  # without it, dask would wait indefinitely
            raise UserError(_not_installed("Dask", scheduler)) from None
        self.jobs = max(1, sum(client.nthreads().values()))

    def _connect_ray(self, scheduler: str | None) -> None:
        try:
            import ray
            from ray.util.joblib import register_ray
        except ImportError:
            raise UserError(_missing("ray")) from None
        try:
            ray.init(
                scheduler,
                num_cpus=None if scheduler else self.jobs,
                log_to_driver=False,
                logging_level="error",
            )
        except (ConnectionError, ValueError) as error:
            raise UserError(_no_answer("Ray", scheduler, error)) from None
        register_ray()
        self._close.callback(ray.shutdown)
        self.jobs = max(1, int(ray.cluster_resources().get("CPU", 1)))

    def close(self) -> None:
        """End the worker processes, in the middle of a task too, or disconnect from a cluster."""
        self._close.close()


def single_threaded(task: Task) -> Any:
    """Run a task with one thread: the parallelism is over images."""
    _limit_threads()
    return task()


_limits = None


def _limit_threads() -> None:
    global _limits
    if _limits is None:
        cv2.setNumThreads(1)
        _limits = threadpool_limits(1)  # of BLAS and OpenMP, for the rest of the process


def _begin_worker(parent: int) -> None:
    """In a worker: leave signals to the parent, and end soon after it where it was killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _kill_processes() -> None:
    for process in multiprocessing.active_children():  # also where loky's own thread has ended
        if process.name.startswith("LokyProcess"):
            with contextlib.suppress(OSError):
                os.kill(process.pid, getattr(signal, "SIGKILL", signal.SIGTERM))
    get_reusable_executor(reuse=True).shutdown(wait=True, kill_workers=True)
    _join_threads()


def _expect_cut_off() -> None:
    """From now on say nothing of a failure in the thread by which loky manages its processes.

    Where they are killed with tasks waiting, that thread may clear its table of tasks before its
    queue, and then ends with a traceback of a KeyError (loky 3.5, `add_call_item_to_queue`). What
    it has left undone then is done here: else its queue's own thread would never end.
    """
    usual = threading.excepthook

    def hook(failure: threading.ExceptHookArgs) -> None:
        thread = failure.thread.name if failure.thread is not None else ""
        if thread != "ExecutorManagerThread" or failure.exc_type is not KeyError:
            usual(failure)
            return
        with contextlib.suppress(Exception):
            failure.thread.join_executor_internals()

    threading.excepthook = hook


def _join_threads(seconds: float = 2.0) -> None:
    """Wait for loky's threads to end, but not indefinitely.

    One that ends while the interpreter does is cut off in the midst of freeing its semaphores, and
    loky's resource tracker warns of them.
    """
    deadline = time.monotonic() + seconds
    for name in ("ExecutorManagerThread", "QueueFeederThread"):  # the first ends the second
        for thread in threading.enumerate():
            if thread.name == name:
                thread.join(max(0.0, deadline - time.monotonic()))


def _call(task: Task) -> tuple:
    return joblib.delayed(single_threaded)(task)


def _missing(package: str) -> str:
    return f"--backend {package} needs a package: pip install 'dilo[{package}]'."


def _no_answer(name: str, scheduler: str | None, error: Exception) -> str:
    reason = " ".join(str(error).split())
    return f"--scheduler {scheduler}: no {name} cluster answers ({reason}); check the address."


def _not_installed(name: str, scheduler: str | None) -> str:
    return (
        f"--scheduler {scheduler}: the machines of this {name} cluster do not have DiLo; "
        "install it there too, in the same version."
    )
