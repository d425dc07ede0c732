"""Killing and stopping real runs at random moments, and going on."""

import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import h5py
import psutil
import pytest
from PIL import Image

from data.masks.format import INDEX_NAME, read_header, shard_paths
from data.masks.verify import verify

pytestmark = pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals")

REPOSITORY = Path(__file__).resolve().parents[2]
IMAGES = 48
SHARDS = 8


@pytest.fixture(scope="module")
def images(tmp_path_factory, draw_disc) -> Path:
    folder = tmp_path_factory.mktemp("images")
    for i in range(IMAGES):
        Image.fromarray(draw_disc(96, 128, i)).save(folder / f"{i:03d}.png")
    (folder / "torn.png").touch()
    return folder


@pytest.fixture(scope="module")
def many_images(images, tmp_path_factory) -> Path:
    """So many that no run is over before it is stopped."""
    folder = tmp_path_factory.mktemp("many")
    for i in range(60):
        (folder / f"{i:02d}").symlink_to(images)
    return folder


def start(images: Path, out: Path, *arguments: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "saliency", images, out, "--jobs", "2", "--shard-size", "6",
         "--max-failures", "1", *arguments],
        cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip


def finish(process: subprocess.Popen) -> tuple[int, str]:
    """Exit code and stderr."""
    _, errors = process.communicate(timeout=60)
    return process.returncode, errors


def wait_until(condition: Callable[[], object], process: subprocess.Popen) -> None:
    while process.poll() is None and not condition():
        time.sleep(0.005)


def contents(out: Path) -> list[tuple]:
    shards = []
    for path in shard_paths(out):
        with h5py.File(path, "r") as file:
            shards.append(
                (
                    path.name,
                    read_header(file).content_digest,
                    file["keys"][:].tolist(),
                    file["status"][:].tolist(),
                    file["error"][:].tolist(),
                    file["masks"][:].tobytes(),
                )
            )
    return shards


def left_overs(out: Path) -> list[str]:
    return [path.name for path in out.iterdir() if path.name.startswith(".")]


def workers_of(process: subprocess.Popen) -> list[psutil.Process]:
    workers = []
    for child in psutil.Process(process.pid).children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):  # a child that has ended meanwhile
            if "LokyProcess" in " ".join(child.cmdline()):
                workers.append(child)
    return workers


def alive(processes: list[psutil.Process]) -> list[psutil.Process]:
    return [p for p in processes if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]


@pytest.fixture(scope="module")
def finished(images, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("finished")
    code, errors = finish(start(images, out))
    assert code == 0, errors
    return out


@pytest.fixture(scope="module")
def uninterrupted(finished) -> list[tuple]:
    shards = contents(finished)
    assert len(shards) == SHARDS + 1 and any(any(masks) for *_, masks in shards)
    return shards


def test_killed_at_random_moments_and_resumed(images, uninterrupted, tmp_path):
    moments = random.Random(0)
    out, before, killed = tmp_path / "out", 0, 0
    for _ in range(5):
        process = start(images, out)
        wait_until(lambda before=before: out.exists() and len(shard_paths(out)) > before, process)
        time.sleep(moments.uniform(0, 0.25))
        killed += process.poll() is None
        process.kill()
        process.wait()
        done = shard_paths(out)
        assert len(done) >= before  # what was finished stays
        before = len(done)
        assert contents(out) == [shard for shard in uninterrupted if (out / shard[0]).exists()]
        if before > SHARDS:  # begin again with some of them gone
            for path in [*moments.sample(done, 6), out / INDEX_NAME]:
                path.unlink(missing_ok=True)
            before = len(shard_paths(out))
    assert killed >= 2
    code, errors = finish(start(images, out))
    assert code == 0, errors
    assert contents(out) == uninterrupted
    assert not left_overs(out)
    assert verify(out, images).sound


def test_a_killed_worker_is_a_sentence_and_the_next_run_finishes(images, uninterrupted, tmp_path):
    process = start(images, tmp_path)
    wait_until(lambda: workers_of(process), process)
    workers = workers_of(process)
    workers[0].kill()
    code, errors = finish(process)
    assert code == 2
    assert errors.splitlines()[-1].startswith("Error: a worker process was killed")
    assert "Traceback" not in errors
    assert not alive(workers) and not left_overs(tmp_path)
    code, errors = finish(start(images, tmp_path))
    assert code == 0, errors
    assert contents(tmp_path) == uninterrupted


@pytest.mark.parametrize(
    ("number", "to_all", "jobs"),
    [
        (signal.SIGINT, True, "2"),  # Ctrl-C in a terminal
        (signal.SIGTERM, False, "1"),
        (signal.SIGTERM, True, "2"),  # a batch system
    ],
)
def test_stopping_takes_seconds_and_tells_how_to_go_on(many_images, tmp_path, number, to_all, jobs):
    process = start(many_images, tmp_path, "--jobs", jobs)
    wait_until(lambda: shard_paths(tmp_path), process)
    workers = workers_of(process)
    assert len(workers) == (2 if jobs == "2" else 0)
    began = time.monotonic()
    (os.killpg if to_all else os.kill)(process.pid, number)
    code, errors = finish(process)
    assert time.monotonic() - began < 10
    assert code == 128 + number
    assert errors.splitlines()[-1] == (
        "Stopped. Finished shards are kept: run the same command again to go on."
    )
    assert "Traceback" not in errors and "Warning" not in errors
    assert not alive(workers)
    assert shard_paths(tmp_path) and not left_overs(tmp_path)


def test_overwriting_that_was_stopped_goes_on(images, finished, uninterrupted, tmp_path):
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    process = start(images, tmp_path, "--overwrite")
    wait_until(lambda: 0 < len(shard_paths(tmp_path)) < SHARDS, process)
    process.send_signal(signal.SIGINT)
    code, errors = finish(process)
    assert code == 130 and "run the same command without --overwrite to go on" in errors
    assert f"Deleted {SHARDS + 1} shards in" in errors
    stopped = {path: path.stat().st_mtime_ns for path in shard_paths(tmp_path)}
    assert len(stopped) <= SHARDS
    assert finish(start(images, tmp_path))[0] == 0
    assert all(path.stat().st_mtime_ns == time for path, time in stopped.items())
    assert contents(tmp_path) == uninterrupted and not left_overs(tmp_path)


def test_the_same_command_twice_at_once_harms_nothing(images, uninterrupted, tmp_path):
    both = [start(images, tmp_path), start(images, tmp_path)]
    (code, _), (other, errors) = sorted(map(finish, both))
    assert (code, other) == (0, 2)
    assert "is being written by process" in errors and "Traceback" not in errors
    assert contents(tmp_path) == uninterrupted
    assert not left_overs(tmp_path)
    assert verify(tmp_path, images).sound
