"""Running the project's commands as a user would, each printed before it runs."""

import os
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path

from data.processes import usable_cores

_PACKAGES = {
    "saliency-compute": "saliency",
    "mask-shards": "data",
    "pretrain": "pretrain",
    "probe": "evaluate",
}


def run(*command: object) -> None:
    """Run one of the four commands; stop if it fails.

    It is the one installed beside this Python, or in a checkout that is not installed the same by
    `python -m`.
    """
    _finish(iter([("", subprocess.Popen(_words(command)))]))


def run_side_by_side(commands: Mapping[str, Sequence[object]], logs: Path) -> None:
    """Run commands, as many at once as there are cores, each on its share; stop all if one fails.

    They are started in order. The last is seen on the screen; what each other one says is appended
    to `logs`/<its name>.log.
    """
    # two networks on one thread each are a third faster than one after another on two
    cores = usable_cores()
    at_once = max(1, min(len(commands), max(2, cores)))
    environment = {"OMP_NUM_THREADS": str(max(1, cores // at_once)), **os.environ}
    logs.mkdir(parents=True, exist_ok=True)

    def started() -> Iterator[tuple[str, subprocess.Popen]]:
        for number, (name, command) in enumerate(commands.items(), start=1):
            words = _words(command)
            if number == len(commands):
                yield name, subprocess.Popen(words, env=environment)
                continue
            log = logs / f"{name}.log"
            print(f"(beside the next one; what it says goes to {log})", flush=True)
            with log.open("a") as file:
                process = subprocess.Popen(words, env=environment, stdout=file, stderr=file)
            yield name, process

    _finish(started(), at_once, logs)


def _words(command: Sequence[object]) -> list[str]:
    """Print a command; return the words that start it."""
    words = [str(word) for word in command]
    print("\n$ " + shlex.join(words), flush=True)
    program = Path(sys.executable).parent / words[0]
    start = [str(program)] if program.exists() else [sys.executable, "-m", _PACKAGES[words[0]]]
    return [*start, *words[1:]]


def _finish(
    starting: Iterator[tuple[str, subprocess.Popen]], at_once: int = 1, logs: Path | None = None
) -> None:
    """Start some at once, and the next as each ends; where one fails stop all, with its code."""
    failed: dict[str, int] = {}
    left = dict(islice(starting, at_once))
    try:
        while left and not failed:
            time.sleep(0.05)
            ended = [name for name, process in left.items() if process.poll() is not None]
            codes = {name: left.pop(name).returncode for name in ended}
            failed = {name: code for name, code in codes.items() if code}
            if not failed:
                left.update(islice(starting, len(ended)))
        for process in left.values():
            process.terminate()  # a pretraining saves itself
    except KeyboardInterrupt:  # which they got too
        failed = {"": 130}
    for process in left.values():
        process.wait()
    if not failed:
        return
    name, code = next(iter(failed.items()))
    log = logs / f"{name}.log" if logs is not None else None
    if log is not None and log.exists():
        print("\n".join(log.read_text("utf-8", "replace").splitlines()[-5:]))
    print("\nStopped. The same command goes on; an empty folder starts anew.")
    # below 0 it is the signal that killed it, which a shell tells by 128 and the signal
    sys.exit(code if code > 0 else 128 - code)
