"""Work done in processes of its own, where it may crash or never end without any harm."""

import contextlib
import math
import multiprocessing
import resource
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection, wait
from typing import Any

from data.processes import signals_held_from_children

Alive = Callable[[], None]  # says that the work goes on

SILENCE = 60.0  # seconds within which a process must say that it goes on; a busy machine is slow
COMPUTING = 15  # seconds of a processor that it may take for that: what never ends is busy

_is_apart = False  # whether this process is one of those


def is_apart() -> bool:
    """Whether this process may crash or never end."""
    return _is_apart


def done_apart(
    work: Callable[[Any, Alive], Any],
    items: Sequence[Any],
    jobs: int = 1,
    seconds: float = SILENCE,
    computing: int = COMPUTING,
) -> Iterator[Any]:
    """Yield `work(item, alive)` of each item, in order; a text where its process failed.

    A process serves many items and is replaced when it ends. It is silent when it neither returns
    nor calls `alive` for so many seconds, or for so many of a processor's; then it is killed.
    `work` must not raise.
    """
    results: dict[int, Any] = {}
    begun = 0
    idle: list[_Process] = []
    busy: dict[Connection, _Process] = {}
    try:
        for number in range(len(items)):
            while number not in results:
                while len(busy) < jobs and begun < len(items):
                    process = idle.pop() if idle else _Process(work, computing)
                    process.begin(begun, items[begun], seconds)
                    begun += 1
                    busy[process.connection] = process
                earliest = min(process.deadline for process in busy.values())
                ready = wait(list(busy), max(0, earliest - time.monotonic()))
                for connection, process in list(busy.items()):
                    if connection in ready:
                        answer = process.answer(seconds)
                    elif process.deadline <= time.monotonic():
                        answer = f"nothing came of it for {seconds:g} s"
                        process.end()
                    else:
                        continue
                    if answer is None:
                        continue
                    results[process.number] = answer
                    del busy[connection]
                    if process.lives:
                        idle.append(process)
            yield results.pop(number)
    finally:
        for process in [*idle, *busy.values()]:
            process.end()


class _Process:
    """A process that works on one item after the other."""

    def __init__(self, work: Callable[[Any, Alive], Any], computing: int) -> None:
        # forked, it begins at once; the threads of this process hold no lock that it needs
        context = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
        self.connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(work, theirs, computing), daemon=True)
        with signals_held_from_children(), _children_allowed():
            self._process.start()
        theirs.close()
        self.lives = True

    def begin(self, number: int, item: Any, seconds: float) -> None:
        self.number, self.deadline = number, time.monotonic() + seconds
        self.connection.send(item)

    def answer(self, seconds: float) -> Any:
        """Return the result, None for a mere sign of life, or a text where the process died."""
        try:
            result = self.connection.recv()
        except (EOFError, OSError):
            self._process.join()
            code = self._process.exitcode or 0
            self.end()
            if code == -signal.SIGXCPU:
                return "it computes without an end"
            return f"the process that read it died ({_name(code)})"
        self.deadline = time.monotonic() + seconds
        return result

    def end(self) -> None:
        self.lives = False
        self._process.kill()
        self._process.join()
        self.connection.close()


def _name(code: int) -> str:
    return signal.Signals(-code).name if code < 0 else f"exit code {code}"


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


def _serve(work: Callable[[Any, Alive], Any], connection: Connection, computing: int) -> None:
    global _is_apart
    _is_apart = True
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

    try:
        while True:
            item = connection.recv()
            goes_on()
            connection.send(work(item, alive))
    except (EOFError, OSError):  # the parent is no more
        pass
