"""Photographs to work on, what a set of shards says, and children that may crash or hang."""

import collections
import hashlib
import json
import os
import resource
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

import h5py
import hdf5plugin  # noqa: F401 - brings zstd
import numpy as np
import skimage.data
from PIL import Image
from tabulate import tabulate

from data.errors import UserError
from data.images.listing import key_path, list_images

Outcome = str
"""What became of one attempt: "refused", "same" and so on, or one of `BAD`."""
BAD = ("WRONG", "SILENT", "LOST", "LEFT", "TRACEBACK", "CRASH", "HANG", "EXECUTED", "MEMORY")


class Table:
    """Counts outcomes by what was tried, in a block whose end prints them; bad ones end the program
    with 1, and are printed when they come, with what reproduces them.
    """

    def __init__(self) -> None:
        self.counts: dict[str, collections.Counter] = collections.defaultdict(collections.Counter)
        self.begun = time.monotonic()

    def note(self, what: str, outcome: Outcome, *how: object) -> None:
        self.counts[what][outcome] += 1
        if outcome in BAD:
            print(f"{outcome}: {what}: {' '.join(map(str, how))}", flush=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        rows = [
            [what, counts.total(), ", ".join(f"{n} {name}" for name, n in counts.most_common())]
            for what, counts in self.counts.items()
        ]
        print(tabulate(rows, ["what", "tried", "what happened"], tablefmt="github"))
        print(f"{time.monotonic() - self.begun:.0f} s")
        bad = sum(counts[name] for counts in self.counts.values() for name in BAD)
        print(f"{bad} bad")
        if kind is None:
            sys.exit(bool(bad))


def photographs(source: Path | None) -> list[np.ndarray]:
    """Return photographs, uint8 (h, w, 3): a folder's first, or scikit-image's few."""
    if source is None:
        return [skimage.data.astronaut(), skimage.data.coffee(), skimage.data.chelsea()]
    keys = list(list_images(source))[:40]
    return [np.asarray(Image.open(key_path(source, key)).convert("RGB")) for key in keys]


def make_images(folder: Path, count: int, side: int, source: Path | None) -> Path:
    """Write so many small JPEGs, no two alike, in five subfolders."""
    pictures = photographs(source)
    for number in range(count):
        image = Image.fromarray(pictures[number % len(pictures)])
        image.thumbnail((side - number % 7, side - number % 7))
        path = folder / f"c{number % 5}" / f"{number:04d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path, quality=85)
    return folder


def contents(folder: Path) -> dict[bytes, tuple]:
    """Return all that plain h5py reads of a set of shards: rows by key."""
    rows = {}
    for path in sorted(folder.glob("shard-*.h5")):
        with h5py.File(path, "r", locking=False) as file:
            columns = [file[name][:] for name in ("status", "mask_size", "image_size", "error")]
            for i, key in enumerate(file["keys"][:]):
                mask = hashlib.sha256(file["masks"][i].tobytes()).hexdigest()
                rows[key] = (*(str(column[i]) for column in columns), mask, path.name)
    return rows


def apart(work: Callable[..., Outcome], *arguments: object, seconds: int = 30) -> Outcome:
    """Return `work(*arguments)` as a forked child says it: or refused, TRACEBACK, CRASH or HANG.

    seconds : of a processor, which a loop without an end takes; and twenty times as many in all.
    """
    out, into = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.setsid()
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 5))  # SIGXCPU before SIGKILL
        quiet = os.open(os.devnull, os.O_WRONLY)
        os.dup2(quiet, 1)
        os.dup2(quiet, 2)
        try:
            outcome = work(*arguments)
        except UserError:
            outcome = "refused"
        except BaseException:
            outcome = "TRACEBACK " + traceback.format_exc()[-300:]
        os.write(into, outcome.encode())
        os._exit(0)
    os.close(into)
    ready, _, _ = select.select([out], [], [], 20 * seconds)
    text = os.read(out, 65536).decode() if ready else ""
    os.close(out)
    if not ready:
        os.killpg(pid, signal.SIGKILL)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if not ready or code == -signal.SIGXCPU:
        return "HANG"
    return text or f"CRASH {code}"


@contextmanager
def scratch(folder: Path | None) -> Iterator[Path]:
    """A folder for the whole of a script, removed at its end."""
    path = Path(tempfile.mkdtemp(dir=folder, prefix="reliability-"))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def command(name: str, *arguments: object) -> list[str]:
    """Return the command line of one of the commands, by this Python."""
    return [sys.executable, "-c", f"import dilo; dilo.{name}()", *map(str, arguments)]


def run(*line: str, seconds: float = 600) -> tuple[int, str]:
    """Run a command line to its end; return its exit code and what it printed."""
    done = subprocess.run(line, capture_output=True, text=True, timeout=seconds, errors="replace")
    return done.returncode, done.stdout + done.stderr


def losses(run_folder: Path) -> list[tuple]:
    """Return (step, loss) of a run's metrics."""
    lines = map(json.loads, (run_folder / "metrics.jsonl").read_text().splitlines())
    return [(line["step"], line["loss"]) for line in lines if "loss" in line]
