"""What numba's kernels need: a folder for their code, and no exception while they run."""

import contextlib
import os
import signal
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

from data.files import private_folder


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


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Let SIGINT and SIGTERM take effect only after the block; also a decorator.

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
        for number in (signal.SIGINT, signal.SIGTERM):
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
