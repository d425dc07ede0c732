"""Where tasks run, and what happens to them there."""

import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import cv2
import psutil
import pytest
from threadpoolctl import threadpool_info

from data.errors import UserError
from saliency.workers import Workers, usable_cores

REPOSITORY = Path(__file__).resolve().parents[2]
LATE = 0.2


def square(number: int) -> tuple[int, int]:
    time.sleep(0.02 * (number % 3))  # results come out of order
    return number**2, os.getpid()


def thread_counts() -> tuple[int, list[int]]:
    return cv2.getNumThreads(), [library["num_threads"] for library in threadpool_info()]


def die(number: int) -> int:
    if number == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def raise_error() -> None:
    raise ValueError("a mistake of ours")


@pytest.fixture(scope="module")
def pair():
    workers = Workers(jobs=2)
    yield workers
    workers.close()


def test_results_come_in_order(pair):
    results = list(pair.run(partial(square, i) for i in range(40)))
    assert [value for value, _ in results] == [i**2 for i in range(40)]
    processes = {process for _, process in results}
    assert len(processes) == 2 and os.getpid() not in processes


def test_one_job_runs_in_this_process_one_by_one():
    results = Workers(jobs=1).run(partial(square, i) for i in range(10**9))
    assert next(results) == (0, os.getpid())
    assert next(results) == (1, os.getpid())


def test_minus_one_is_all_cores():
    assert Workers(jobs=-1).jobs == usable_cores() >= 1


def test_tasks_are_drawn_as_they_are_needed(pair):
    drawn = 0

    def tasks():
        nonlocal drawn
        for i in range(1000):
            drawn += 1
            yield partial(square, i)

    results = pair.run(tasks())
    next(results)
    assert drawn < 100
    results.close()


def test_a_worker_has_one_thread(pair):
    opencv, libraries = next(pair.run(iter([thread_counts])))
    assert opencv == 1
    assert libraries and set(libraries) == {1}


def test_our_own_mistakes_are_not_hidden(pair):
    with pytest.raises(ValueError, match="a mistake of ours"):
        list(pair.run(iter([raise_error])))


def test_a_killed_worker_is_a_sentence():
    workers = Workers(jobs=2)
    try:
        with pytest.raises(UserError, match=r"worker process was killed .*--jobs 2"):
            list(workers.run(partial(die, i) for i in range(10)))
    finally:
        workers.close()
    again = Workers(jobs=2)
    assert [value for value, _ in again.run([partial(square, 2)])] == [4]
    again.close()


def test_a_scheduler_needs_a_cluster():
    with pytest.raises(UserError, match=r"--scheduler tcp://host:1 .*--backend dask"):
        Workers(scheduler="tcp://host:1")


@pytest.mark.parametrize(("backend", "module"), [("dask", "dask.distributed"), ("ray", "ray")])
def test_a_missing_package_is_named(monkeypatch, backend, module):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UserError, match=rf"pip install 'dilo\[{backend}\]'"):
        Workers(backend=backend)


# Clusters. Their workers are other programs, so the tasks are of a module that these can import.


def _tasks():
    return (partial(divmod, i, 7) for i in range(50))


@pytest.mark.parametrize("backend", ["dask", "ray"])
def test_a_cluster_on_this_machine(backend):
    pytest.importorskip({"dask": "distributed"}.get(backend, backend))
    program = (
        "from functools import partial\n"
        "from saliency.workers import Workers\n"
        "if __name__ == '__main__':\n"
        f"    workers = Workers(2, {backend!r})\n"
        "    results = list(workers.run(partial(divmod, i, 7) for i in range(50)))\n"
        "    assert results == [divmod(i, 7) for i in range(50)], results\n"
        "    workers.close()\n"
        "    print('as expected')\n"
    )
    done = _python("-c", program)
    assert done.stdout == "as expected\n", done.stderr


@pytest.fixture
def dask_scheduler(tmp_path):
    """Address of a Dask scheduler with one worker, both started by Dask's own commands."""
    pytest.importorskip("distributed")
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    file = tmp_path / "scheduler.json"
    common = ["--scheduler-file", str(file), "--no-dashboard"]
    commands = [
        ["scheduler", "--host", "127.0.0.1", "--port", "0", *common],
        ["worker", "--nthreads", "1", "--local-directory", str(tmp_path), *common],
    ]
    started = [
        subprocess.Popen(
            [sys.executable, "-m", "dask", *command],
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for command in commands
    ]
    while not file.exists():
        assert started[0].poll() is None
        time.sleep(LATE)
    from distributed import Client

    with Client(scheduler_file=str(file)) as client:
        client.wait_for_workers(1)
        address = client.scheduler.address
    yield address
    for process in reversed(started):
        process.terminate()
        process.wait()


def test_a_running_dask_scheduler(dask_scheduler):
    workers = Workers(backend="dask", scheduler=dask_scheduler)
    assert workers.jobs == 1
    assert list(workers.run(_tasks())) == [divmod(i, 7) for i in range(50)]
    workers.close()


def test_a_scheduler_that_does_not_answer(monkeypatch):
    distributed = pytest.importorskip("distributed")
    client = partial(distributed.Client)

    def impatient(address, timeout):
        return client(address, timeout=1)

    monkeypatch.setattr("dask.distributed.Client", impatient)
    with pytest.raises(UserError, match=r"--scheduler tcp://127.0.0.1:1: no Dask cluster answers"):
        Workers(backend="dask", scheduler="tcp://127.0.0.1:1")


def test_a_cluster_without_dilo_is_told_at_once(monkeypatch):
    pytest.importorskip("distributed")

    class Bare:
        """A client of machines on which nothing of DiLo can be imported."""

        def __init__(self, *_, **__): ...
        def close(self): ...
        def run_on_scheduler(self, *_):
            raise ModuleNotFoundError("No module named 'saliency'")

    monkeypatch.setattr("dask.distributed.Client", Bare)
    with pytest.raises(UserError, match=r"tcp://host:1.* do not have DiLo; install it"):
        Workers(backend="dask", scheduler="tcp://host:1")


# The parent's end ---------------------------------------------------------------------------------

_PARENT = """
import os, sys, time
from functools import partial
from saliency.workers import Workers

if __name__ == "__main__":
    workers = Workers(2)
    results = workers.run(partial(eval, "__import__('time').sleep(0.02) or __import__('os').getpid()") for _ in range(100_000))
    print(*{next(results) for _ in range(60)}, flush=True)
    for _ in results:
        pass
"""  # noqa: E501


def test_workers_end_with_a_parent_that_was_killed():
    process = subprocess.Popen(
        [sys.executable, "-c", _PARENT],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    pids = [int(word) for word in process.stdout.readline().split()]
    assert pids and all(map(_lives, pids))
    process.kill()
    process.wait()
    deadline = time.monotonic() + 8
    while any(map(_lives, pids)) and time.monotonic() < deadline:
        time.sleep(LATE)
    assert not any(map(_lives, pids))


_GIVEN_UP = """
import threading, time
from functools import partial
from saliency.workers import Workers

if __name__ == "__main__":
    for _ in range(3):
        workers = Workers(2)
        results = workers.run(partial(time.sleep, 0.02) for _ in range(100_000))
        for _ in range(20):
            next(results)
        try:
            results.throw(KeyboardInterrupt)
        except KeyboardInterrupt:
            workers.close()
            print(*[thread.name for thread in threading.enumerate()])
"""


def test_workers_that_are_given_up_leave_no_thread_behind():
    """A thread that the interpreter cuts off leaves semaphores, of which loky would warn."""
    done = _python("-c", _GIVEN_UP)
    assert (done.stdout, done.stderr) == (3 * "MainThread\n", "")


def _lives(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _python(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, *arguments], cwd=REPOSITORY, capture_output=True, text=True, timeout=120
    )
