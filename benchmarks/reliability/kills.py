"""Commands killed at random moments, and begun again: nothing lost, wrong or left behind.

    python -m benchmarks.reliability.kills [--saliency 120] [--overwrite 50] [--imports 20]
                                           [--pretrain 20] [--real 10]

A child that has all libraries imported runs the command, is killed by SIGKILL, and the same command
follows until it comes to its end; then everything equals an uninterrupted run's. `--real` are kills
of the command itself as it is installed, its imports and its worker processes included.
"""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import click

from benchmarks.reliability.common import (
    Table,
    command,
    contents,
    losses,
    make_images,
    run,
    scratch,
)
from data.cli import main as mask_shards
from data.masks.verify import verify
from pretrain.cli import main as pretrain
from saliency.cli import main as saliency_compute

Child = Callable[[], None]


def begun(work: Child) -> int:
    """Run `work` in a forked process of a group of its own; return its number."""
    pid = os.fork()
    if pid:
        return pid
    os.setsid()
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 1)
    os.dup2(quiet, 2)
    try:
        work()
    except SystemExit as end:
        os._exit(end.code or 0)
    except BaseException:
        os._exit(99)
    os._exit(0)


def called(main: Callable, *arguments: object) -> Child:
    return lambda: main([str(argument) for argument in arguments])


def killed(work: Child, seconds: float, ready: Callable[[], bool]) -> tuple[bool, int]:
    """Kill `work` so many seconds after `ready`; return whether that came in time, and the exit."""
    pid = begun(work)
    while not ready() and os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        time.sleep(0.002)
    time.sleep(seconds)
    in_time = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None
    if in_time:
        try:
            os.killpg(pid, signal.SIGKILL)
        except ProcessLookupError:  # it has no group of its own yet
            os.kill(pid, signal.SIGKILL)
    return in_time, os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


class Rounds:
    """Kills one command again and again, up to its end, and begins anew.

    work : the command.
    fresh : brings its output folder to the state before it.
    ready : whether it has got to its work.
    whole : says what is wrong with the output of a run that came to its end; empty for nothing.
    partly : the same of what lies there after a kill.
    """

    def __init__(self, what: str, table: Table, rng: random.Random, **parts: Callable) -> None:
        self.what, self.table, self.rng = what, table, rng
        self.__dict__.update(parts)
        self.longest = 0.3

    def run(self, count: int) -> None:
        self.fresh()
        kills = 0
        while kills < count:
            began = time.monotonic()
            in_time, code = killed(self.work, self.rng.uniform(0, self.longest), self.ready)
            if in_time:
                kills += 1
                wrong = self.partly()
                self.table.note(f"{self.what}: kills", "WRONG" if wrong else "killed", wrong)
            else:
                self.longest = 0.8 * self.longest + 0.2 * (time.monotonic() - began)
                self.end(code)
                self.fresh()
        self.end(os.waitstatus_to_exitcode(os.waitpid(begun(self.work), 0)[1]))

    def end(self, code: int) -> None:
        wrong = f"exit code {code}" if code else self.whole()
        self.table.note(f"{self.what}: ends", "WRONG" if wrong else "equal", wrong)


def difference(out: Path, *wanted: dict) -> str:
    """Say whether a whole set is another than the last of these, or holds left-overs."""
    if contents(out) != wanted[-1]:
        return "its rows differ"
    if left := [path.name for path in out.iterdir() if path.name.startswith(".")]:
        return f"left: {left}"
    report = verify(out)
    return "" if report.sound else f"verify: {report.problems or report.without_mask}"


def partial(out: Path, *wanted: dict) -> str:
    """Say whether a shard of a set is of none of these."""
    if not out.is_dir():
        return ""
    rows = contents(out)
    odd = [key for key, row in rows.items() if all(row != want.get(key) for want in wanted)]
    return f"{len(odd)} rows are none of these" if odd else ""


def kill_saliency(options: dict, folder: Path, table: Table, rng: random.Random) -> None:
    """New sets, sets replaced by another method, and imports."""
    images = make_images(folder / "images", 60, 120, options["images"])
    sets: dict[str, dict] = {}
    for method in ("gs", "rbd"):
        code, said = run(*command("saliency_compute", images, folder / method, *_how(method)))
        assert code == 0, said
        sets[method] = contents(folder / method)
        run(*command("mask_shards", "export", folder / method, folder / f"{method}-png"))
    out = folder / "out"

    def fresh() -> None:
        shutil.rmtree(out, ignore_errors=True)

    def fresh_from(method: str) -> None:
        fresh()
        shutil.copytree(folder / method, out)

    def rounds(what: str, work: Child, first: Callable, *wanted: dict) -> Rounds:
        return Rounds(
            what,
            table,
            rng,
            work=work,
            fresh=first,
            ready=lambda: any(out.glob(".*.tmp")),
            whole=lambda: difference(out, *wanted),
            partly=lambda: partial(out, *wanted),
        )

    make = called(saliency_compute, images, out, *_how("gs"))
    rounds("saliency-compute", make, fresh, sets["gs"]).run(options["saliency"])
    make = called(saliency_compute, images, out, *_how("gs"), "--overwrite")
    before = [sets["rbd"], sets["gs"]]
    rounds("saliency-compute --overwrite", make, lambda: fresh_from("rbd"), *before).run(
        options["overwrite"]
    )
    arguments = ["import", folder / "gs-png", out, "--images", images, "--shard-size", 6]
    imported = folder / "imported"
    mask_shards.main(
        [str(a) for a in [*arguments[:2], imported, *arguments[3:]]], standalone_mode=False
    )
    wanted = contents(imported)
    work = called(mask_shards, *arguments)
    rounds("mask-shards import", work, fresh, wanted).run(options["imports"])


def _how(method: str) -> list[object]:
    return ["--method", method, "--jobs", 1, "--shard-size", 6]


def kill_pretrain(options: dict, folder: Path, table: Table, rng: random.Random) -> None:
    """Runs resumed with another number of workers: the same losses, bit for bit."""
    images = make_images(folder / "training", 64, 80, options["images"])
    arguments = ["--paste-probability", 0, "--arch", "resnet18", "--image-size", 32]
    arguments += ["--batch-size", 16, "--epochs", 4, "--negatives", 32, "--device", "cpu"]
    arguments += ["--set", "knn_every=0", "--set", "dim=16", "--set", "checkpoint_every_steps=1"]

    def train(out: Path, *more: object) -> Child:
        workers = rng.choice([0, 1, 2])
        return called(pretrain, images, "--out", out, "--workers", workers, *arguments, *more)

    whole = folder / "whole"
    code = os.waitstatus_to_exitcode(os.waitpid(begun(train(whole)), 0)[1])
    assert code == 0, code
    out = folder / "killed"
    rounds = Rounds(
        "pretrain --resume",
        table,
        rng,
        work=lambda: train(out, "--resume")(),
        fresh=lambda: shutil.rmtree(out, ignore_errors=True),
        ready=lambda: any((out / "checkpoints").glob(".*.tmp")),
        whole=lambda: _run_difference(out, whole),
        partly=lambda: "",
    )
    rounds.longest = 3
    rounds.run(options["pretrain"])


def _run_difference(out: Path, whole: Path) -> str:
    import torch

    if losses(out) != losses(whole):
        return "its losses differ"
    ours, theirs = (
        torch.load(path / "backbone.pt", weights_only=True)["state_dict"] for path in (out, whole)
    )
    if any(not torch.equal(value, ours[name]) for name, value in theirs.items()):
        return "its weights differ"
    left = [path.name for path in out.rglob("*.tmp")]
    return f"left: {left}" if left else ""


def kill_real(options: dict, folder: Path, table: Table, rng: random.Random) -> None:
    """Kill the command's process, a worker of it or its whole group, from its first moment on."""
    import psutil

    images = folder / "images"
    wanted, out = contents(folder / "gs"), folder / "real"
    line = command("saliency_compute", images, out, *_how("gs"))
    line[line.index("--jobs") + 1] = "2"
    for number in range(options["real"]):
        what = ("the process", "a worker", "the group")[number % 3]
        process = subprocess.Popen(
            line, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        workers: list[psutil.Process] = []
        while what == "a worker" and process.poll() is None and not workers:
            children = _children(process)
            workers = [child for child in children if "loky" in " ".join(_line(child))]
            time.sleep(0.01)
        time.sleep(rng.uniform(0, 8 if what != "a worker" else 1))
        children = _children(process)
        if what == "a worker" and workers:
            workers[0].kill()
        elif what == "the group" and process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
        process.wait(120)
        _, alive = psutil.wait_procs(children, timeout=15)
        names = list(Path("/dev/shm").glob(f"*{process.pid}*"))
        left = [*(child.pid for child in alive), *names]
        wrong = partial(out, wanted)
        outcome = "LEFT" if left else "WRONG" if wrong else "killed"
        table.note(f"saliency-compute --jobs 2, {what} killed", outcome, left, wrong)
    code, said = run(*line)
    wrong = difference(out, wanted) if code == 0 else said[-300:]
    table.note("saliency-compute --jobs 2: ends", "WRONG" if wrong else "equal", wrong)


def _children(process: subprocess.Popen) -> list:
    import psutil

    try:
        return psutil.Process(process.pid).children(recursive=True)
    except psutil.NoSuchProcess:  # it has ended
        return []


def _line(process: object) -> list[str]:
    import psutil

    try:
        return process.cmdline()
    except psutil.Error:
        return []


@click.command()
@click.option("--saliency", default=120)
@click.option("--overwrite", default=50)
@click.option("--imports", default=20)
@click.option("--pretrain", default=20)
@click.option("--real", default=10)
@click.option("--images", type=Path, help="Photographs to take.")
@click.option("--seed", default=0)
def main(**options) -> None:
    """Print the table."""
    rng = random.Random(options["seed"])
    with Table() as table, scratch(None) as folder:
        kill_saliency(options, folder, table, rng)
        if options["real"]:
            kill_real(options, folder, table, rng)
        if options["pretrain"]:
            kill_pretrain(options, folder, table, rng)


if __name__ == "__main__":
    sys.exit(main())
