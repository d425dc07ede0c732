"""The entry points of DiLo's four commands: what must hold before a library is imported.

The project's packages have plain names (`saliency`, `pretrain`, `evaluate`, `data`), which another
distribution may own in the same environment: Hugging Face has an `evaluate`. Each command therefore
looks where its packages come from before it imports them, and says in one sentence what is wrong.
"""

import atexit
import gc
import os
import signal
import sys
from types import FrameType

_ENDING = (signal.SIGINT, signal.SIGTERM)
_AGAIN = 0.02  # seconds of the processor
_UNCOLLECTED = 10_000  # objects after which Python looks for garbage
_NEEDED = {  # command's package: every package that it imports
    "saliency": ("data", "saliency"),
    "data": ("data",),
    "pretrain": ("data", "pretrain"),
    "evaluate": ("data", "pretrain", "evaluate"),
}


def foreign_package(names: tuple[str, ...]) -> str | None:
    """Return one sentence on the first of `names` that is missing or not DiLo's, else None."""
    from importlib.util import find_spec
    from pathlib import Path

    for name in names:
        spec = find_spec(name)
        origin = spec.origin if spec is not None else None
        if origin is None:
            return f"DiLo's package '{name}' is not installed; install DiLo again."
        if '__distribution__ = "dilo"' not in Path(origin).read_text(encoding="utf-8"):
            return (
                f"the package '{name}' at {Path(origin).parent} belongs to another distribution; "
                "install DiLo in an environment of its own (python3 -m venv)."
            )
    return None


def _run(package: str) -> None:
    ending = _Ending()
    ending.at_signals()
    _look_rarely_for_garbage()
    _read_names_as_utf8()
    os.environ["MPLBACKEND"] = "agg"  # a notebook's backend is not installed here; files alone
    complaint = foreign_package(_NEEDED[package])
    if complaint is not None:
        print(f"Error: {complaint}", file=sys.stderr)
        sys.exit(2)
    from importlib import import_module

    main = import_module(f"{package}.cli").main
    ending.leave()
    main()


class _Ending:
    """End with 128 + number at SIGINT and SIGTERM, until a stage has its own handlers.

    Tidily, what is half written being removed; the second signal ends the command at once. While a
    module is imported nothing is raised, for a library's `except` may swallow it, and C++ abort:
    the command ends when that is done.
    """

    def __init__(self) -> None:
        self.command, self.code, self.left = os.getpid(), 0, False

    def at_signals(self) -> None:
        for number in _ENDING:
            if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup and a script's `&` want
                signal.signal(number, self.ask)
        signal.signal(signal.SIGVTALRM, self.leave)
        atexit.register(_ignore_signals)  # the first registered is the last that is called

    def ask(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self.command or self.code:  # of a forked worker, its parent speaks
            os._exit(128 + number)
        self.code = 128 + number
        print(f"Stopped by {signal.Signals(number).name}.", file=sys.stderr, flush=True)
        self.leave(number, frame)

    def leave(self, number: int = 0, frame: FrameType | None = None) -> None:
        """Leave, if that was asked for; a module that is imported is asked again a moment later."""
        while frame is not None and not frame.f_code.co_filename.startswith("<frozen importlib"):
            frame = frame.f_back
        if self.left or not self.code:  # once: the last asking may come when all is done
            return
        if frame is not None:
            signal.setitimer(signal.ITIMER_VIRTUAL, _AGAIN)
            return
        self.left = True
        sys.exit(self.code)


def _ignore_signals() -> None:
    """All is done, and Python, while it is taken down, would die of a signal."""
    for number in (*_ENDING, signal.SIGVTALRM):
        signal.signal(number, signal.SIG_IGN)


def _look_rarely_for_garbage() -> None:
    """Spare a third of the start, and the end: imports make a million objects and no garbage."""
    gc.set_threshold(_UNCOLLECTED)
    atexit.register(gc.freeze)  # what Python would search once more while it is taken down


def _read_names_as_utf8() -> None:
    """Begin anew in Python's UTF-8 mode where the locale would read names of files otherwise."""
    if sys.getfilesystemencoding() != "utf-8" and not sys.flags.utf8_mode:
        os.environ["PYTHONUTF8"] = "1"  # the workers' too
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def saliency_compute() -> None:
    """`saliency-compute`: saliency masks of a folder of images, into mask shards."""
    _run("saliency")


def mask_shards() -> None:
    """`mask-shards`: look into mask shards, verify, export, import."""
    _run("data")


def pretrain() -> None:
    """`pretrain`: instance discrimination on copy-pasted views."""
    _run("pretrain")


def probe() -> None:
    """`probe`: what a pretrained network has learnt, in scores and pictures."""
    _run("evaluate")
