"""Processes: how many, their signals, work that may crash apart, and what numba's kernels need."""

from __future__ import annotations

import contextlib
import math
import multiprocessing
import os
import resource
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from data.files import private_folder

_SHARED = Path("/dev/shm")


def usable_cores() -> int:
    """Return the cores that a batch system's affinity or a container's quota grants, at least 1."""
    from joblib import cpu_count

    return cpu_count()


# ---- signals -------------------------------------------------------------------------------------


class StopRequest:
    """Whether, and by which signal, this process was asked to stop."""

    number: int | None = None

    @property
    def interrupted(self) -> bool:
        """Whether it was Ctrl-C."""
        return self.number == signal.SIGINT

    @property
    def exit_code(self) -> int:
        """130 after Ctrl-C, as shells report it; SIGTERM's 0 tells a cluster that all is well."""
        return 130 if self.interrupted else 0

    def __bool__(self) -> bool:
        return self.number is not None


@contextlib.contextmanager
def stop_on_signals() -> Iterator[StopRequest]:
    """Turn SIGTERM and the first Ctrl-C into a request; the second Ctrl-C interrupts at once.

    A signal that is ignored so far, as by nohup, stays ignored.
    """
    request = StopRequest()

    def note(number: int, frame: object) -> None:
        if request.interrupted and number == signal.SIGINT:
            raise KeyboardInterrupt
        request.number = number

    before = {}
    for number in (signal.SIGTERM, signal.SIGINT):
        if signal.getsignal(number) is not signal.SIG_IGN:
            before[number] = signal.signal(number, note)
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def signals_held_from_children() -> Iterator[None]:
    """Start processes to which a terminal's Ctrl-C, or a batch system's SIGTERM, does nothing.

    Both reach the workers too, and these would print tracebacks or die before the parent has said
    what happens. The parent ends them. A process inherits the mask of blocked signals; this one's
    are only delayed.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Let signals that end the process take effect only after the block; also a decorator.

    What numba compiles loads the types of its results by Python code, in which a signal's handler
    may run, and crashes the process where that raises. Outside the main thread, where no handler
    ever runs, this does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    caught: list[int] = []
    before = {}
    try:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGVTALRM):  # the last is `dilo`'s
            handler = signal.getsignal(number)
            if callable(handler):  # not one that is ignored, or that ends the process at once
                before[number] = handler
                signal.signal(number, lambda number, frame: caught.append(number))
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for number in dict.fromkeys(caught):
            signal.raise_signal(number)


# ---- what is left behind -------------------------------------------------------------------------


def sweep_after_death() -> None:
    """Have what this process leaves in shared memory removed even if its whole group is killed.

    Joblib's own cleaner belongs to the group and dies with it; then its semaphores and folders stay
    in /dev/shm for as long as the machine runs. This one is a process in a session of its own. It
    waits for a pipe to be closed, as happens however this process ends.
    """
    if not _SHARED.is_dir():
        return
    end, _ = os.pipe()  # the other end is closed with this process; no program inherits it
    ready, tells = os.pipe()
    pid = os.getpid()
    if os.fork():
        os.close(end)
        os.close(tells)
        os.read(ready, 1)  # until it has left the group
        os.close(ready)
        return
    try:  # nothing here may raise into the program that was forked
        os.setsid()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        os.write(tells, b".")
        os.dup2(end, 0)
        os.closerange(1, os.sysconf("SC_OPEN_MAX"))
        os.read(0, 1)
        for name in (f"sem.loky-{pid}-*", f"joblib_memmapping_folder_{pid}_*"):
            for path in _SHARED.glob(name):
                shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    finally:
        os._exit(0)


def ensure_kernel_cache() -> None:
    """Give numba a cache folder if neither this package's nor the user's own can be written.

    Numba refuses to compile cached functions without one: in a container that runs under a foreign
    user id, say, with neither a home nor the right to write into the installation. The folder is
    `dilo-kernels-<user id>` among the temporary files; worker processes inherit it through the
    environment. To be called before numba is imported.
    """
    if os.environ.get("NUMBA_CACHE_DIR"):
        return
    if _can_write(Path(__file__).parent / "__pycache__") or _can_write(_user_folder()):
        return
    # only this user's, because what is loaded from it is run
    folder = private_folder("dilo-kernels") or tempfile.mkdtemp(prefix="dilo-kernels-")
    os.environ["NUMBA_CACHE_DIR"] = str(folder)


def _user_folder() -> Path:
    """Where numba falls back to, on Linux; elsewhere a home folder does."""
    cache = os.environ.get("XDG_CACHE_HOME")
    try:
        return Path(cache) / "numba" if cache else Path.home() / ".cache" / "numba"
    except RuntimeError:  # no home
        return Path(os.devnull) / "none"


def _can_write(folder: Path) -> bool:
    """Try, as numba does: rights alone do not tell of read-only and full disks."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


# ---- work in processes of its own ----------------------------------------------------------------

Alive = Callable[[], None]  # says that the work goes on

SILENCE = 60.0  # seconds within which a process must say that it goes on; a busy machine is slow
COMPUTING = 15  # seconds of a processor that it may take for that: what never ends is busy

_apart = False  # whether this process is one of those


def is_apart() -> bool:
    """Return whether this process is one of `done_apart`'s."""
    return _apart


def done_apart(
    work: Callable[[Any, Alive], Any],
    items: Sequence[Any],
    jobs: int = 1,
    seconds: float = SILENCE,
    computing: int = COMPUTING,
) -> Iterator[Any]:
    """Yield `work(item, alive)` of each item, in order; a text where its process failed.

    Each has a process of its own, `jobs` of them at a time. It is silent when it neither returns
    nor calls `alive` for so many seconds, or for so many of a processor's; then it is killed.
    `work` must not raise.
    """
    running: set[Any] = set()
    ended = threading.Event()
    pool = ThreadPoolExecutor(jobs)

    def done(item: object) -> object:
        process, ours = _started(work, item, computing)
        running.add(process)
        try:
            while not ended.is_set() and ours.poll(seconds):
                if (result := ours.recv()) is not None:  # else a sign of life
                    return result
            return f"nothing came of it for {seconds:g} s"
        except (EOFError, OSError):
            process.join()
            code = process.exitcode or 0
            if code == -signal.SIGXCPU:
                return "it computes without an end"
            name = signal.Signals(-code).name if code < 0 else f"exit code {code}"
            return f"the process that read it died ({name})"
        finally:
            process.kill()
            process.join()
            running.discard(process)
            ours.close()

    try:
        yield from pool.map(done, items)
    finally:
        ended.set()
        for process in list(running):
            process.kill()
        pool.shutdown(cancel_futures=True)


_starting = threading.Lock()  # or a process would hold on to the pipe of another


def _started(work: Callable, item: object, computing: int) -> tuple[Any, Connection]:
    """Start a process that does `work(item, alive)`; return it, and where its result arrives."""
    # forked, it begins at once; the threads of this process hold no lock that it needs
    context = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
    with _starting:
        ours, theirs = context.Pipe()
        process = context.Process(target=_serve, args=(work, item, theirs, computing), daemon=True)
        with signals_held_from_children(), _children_allowed():
            process.start()
        theirs.close()
    return process, ours


@contextlib.contextmanager
def _children_allowed() -> Iterator[None]:
    """Let a daemon, such as a loading process, start a process, which it ends itself."""
    config = multiprocessing.current_process()._config
    daemon = config.pop("daemon", None)
    try:
        yield
    finally:
        if daemon is not None:
            config["daemon"] = daemon


def _serve(work: Callable, item: object, connection: Connection, computing: int) -> None:
    global _apart
    _apart = True
    last = time.monotonic()
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))

    def goes_on() -> None:
        hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
        end = math.ceil(time.process_time()) + computing
        resource.setrlimit(resource.RLIMIT_CPU, (end if hard < 0 else min(end, hard), hard))

    def alive() -> None:
        nonlocal last
        if time.monotonic() - last > 1:
            last = time.monotonic()
            goes_on()
            connection.send(None)

    goes_on()
    with contextlib.suppress(OSError):  # the parent is no more
        connection.send(work(item, alive))
