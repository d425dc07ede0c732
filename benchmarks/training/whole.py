"""The whole of training by the public command, and the rate that it notes itself.

It takes compiled kernels from the cache of the process that starts it, as the environment names
that folder (or Inductor's own default does); so it need not compile what was compiled here.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarks.training.failures import PartFailed
from data.metrics import read_metrics
from pretrain.settings import Settings

WARM_UP = 20  # steps: compiling, choosing algorithms, filling queues
LIMIT = 180.0  # seconds that a run may take until then
EPOCH_START = 10  # first steps of an epoch that are left out; more where there are more workers
_TO_END = 60.0  # seconds to save and end


class Rate(NamedTuple):
    """How fast a run was, and the share of its time in which it waited for images."""

    images_per_second: float
    waiting: float


def whole_rate(
    settings: Settings,
    device: str,
    workers: int,
    seconds: float,
    out: Path,
    *,
    start: Sequence[str] = (sys.executable, "-m"),
    environment: Mapping[str, str] | None = None,
    limit: float = LIMIT,
) -> Rate:
    """Run `pretrain` until it is warm and for so many seconds more, and stop it.

    Parameters
    ----------
    settings : of the run, with `images` and `masks`.
    out : the run's folder; what the run says goes to a file beside it.
    start : what comes before `pretrain` on the command line.
    environment : variables beside this process's own.

    Raises
    ------
    PartFailed
        The run ended by itself, or was not warm after `limit` seconds; with the last that it said.
    """
    words = [*start, "pretrain", *_arguments(settings, device, workers, out)]
    log = out.with_name(f"{out.name}.log")
    out.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w") as file:
        process = subprocess.Popen(
            words, stdout=file, stderr=file, env={**os.environ, **(environment or {})}
        )
        try:
            _watch(process, out / "metrics.jsonl", seconds, limit, log)
        finally:
            _end(process)
    return steady_rate(_steps(out / "metrics.jsonl"), max(EPOCH_START, workers))


def steady_rate(lines: Sequence[dict], epoch_start: int) -> Rate:
    """Return the rate of a run's steps in full swing.

    Without the warm-up, and without each epoch's first steps, for whose batches the workers had
    only just begun; with these where epochs have no others. It is the mean over time, not the
    median: workers deliver in bursts, between which the loop waits.
    """
    place, steady, epoch = 0, [], None
    for line in lines:
        place = place + 1 if line["epoch"] == epoch else 0
        epoch = line["epoch"]
        steady.append(place >= epoch_start)
    warm = list(zip(lines, steady, strict=True))[WARM_UP:]
    kept = [line for line, good in warm if good] or [line for line, _ in warm]
    if not kept:
        raise PartFailed(f"pretrain made {len(lines)} steps; its first {WARM_UP} only warm up")
    times = [1 / max(line["images_per_second"], 1e-9) for line in kept]  # of an image
    waiting = sum(line["loader_wait"] * t for line, t in zip(kept, times, strict=True))
    return Rate(len(times) / sum(times), waiting / sum(times))


def _arguments(settings: Settings, device: str, workers: int, out: Path) -> list[str]:
    words = [settings.images, "--out", str(out), "--allow-missing-masks"]
    words += ["--masks", settings.masks] if settings.masks else []
    words += ["--device", device, "--workers", str(workers), "--epochs", "100000"]
    elsewhere = {"images", "masks", "allow_missing_masks", "device", "workers", "epochs"}
    ours = {"log_every": 5, "knn_every": 0, "checkpoint_every_minutes": 0}
    values = settings.model_dump(mode="json", exclude_none=True) | ours
    for name, value in values.items():
        if name not in elsewhere:
            words += ["--set", f"{name}={json.dumps(value)}"]
    return words


def _steps(metrics: Path) -> list[dict]:
    """Return the lines of steps; others tell of unreadable images."""
    return [line for line in read_metrics(metrics) if "images_per_second" in line]


def _watch(
    process: subprocess.Popen, metrics: Path, seconds: float, limit: float, log: Path
) -> None:
    """Wait until the run was warm for so many seconds."""
    started, warm = time.monotonic(), None
    while warm is None or time.monotonic() - warm < seconds:
        time.sleep(0.5)
        if process.poll() is not None:
            raise PartFailed(f"pretrain ended with code {process.returncode}: {last_word(log)}")
        if warm is None and len(_steps(metrics)) >= WARM_UP:
            warm = time.monotonic()
        if warm is None and time.monotonic() - started > limit:
            raise PartFailed(
                f"pretrain made {len(_steps(metrics))} of {WARM_UP} steps to warm up in "
                f"{limit:.0f} s, and was stopped: {last_word(log)}"
            )


def _end(process: subprocess.Popen) -> None:
    """Let a run save and end; kill it if it does not."""
    process.terminate()
    try:
        process.wait(_TO_END)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def last_word(log: Path) -> str:
    """Return what a process that failed gave as the reason: its last error, else its last line."""
    lines = [line.strip() for line in log.read_text("utf-8", "replace").splitlines()]
    lines = [line for line in lines if line]
    errors = [line for line in lines if re.match(r"(\[rank\d+\]: ?)?[\w.]*Error: \S", line)]
    return (errors or lines or ["it said nothing"])[-1]
