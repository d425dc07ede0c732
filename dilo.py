"""The entry points of DiLo's four commands: what must hold before a library is imported.

The project's packages have plain names (`saliency`, `pretrain`, `evaluate`, `data`), which another
distribution may own in the same environment: Hugging Face has an `evaluate`. Each command therefore
looks where its packages come from before it imports them, and says in one sentence what is wrong.
"""

import atexit
import os
import signal
import sys
from types import FrameType

_ENDING = (signal.SIGINT, signal.SIGTERM)
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
    _end_at_signals()
    _read_names_as_utf8()
    os.environ["MPLBACKEND"] = "agg"  # a notebook's backend is not installed here; files alone
    complaint = foreign_package(_NEEDED[package])
    if complaint is not None:
        print(f"Error: {complaint}", file=sys.stderr)
        sys.exit(2)
    from importlib import import_module

    import_module(f"{package}.cli").main()


def _end_at_signals() -> None:
    """End with 128 + number at SIGINT and SIGTERM, until a stage has its own handlers.

    Tidily, what is half written being removed; but at once while a module is imported, where an
    exception may be swallowed by a library's `except`, or end the process in the middle of its C++,
    and at the second signal.
    """
    command, asked = os.getpid(), False

    def end(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        if os.getpid() == command and not asked:  # of a forked worker, its parent speaks
            print(f"Stopped by {signal.Signals(number).name}.", file=sys.stderr, flush=True)
        if os.getpid() != command or asked or _is_importing(frame):
            os._exit(128 + number)
        asked = True
        sys.exit(128 + number)

    for number in _ENDING:
        if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup and `&` in scripts want it
            signal.signal(number, end)
    atexit.register(_ignore_signals)  # the first registered is the last that is called


def _ignore_signals() -> None:
    """All is done, and Python, while it is taken down, would die of a signal."""
    for number in _ENDING:
        signal.signal(number, signal.SIG_IGN)


def _is_importing(frame: FrameType | None) -> bool:
    while frame is not None and not frame.f_code.co_filename.startswith("<frozen importlib"):
        frame = frame.f_back
    return frame is not None


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
