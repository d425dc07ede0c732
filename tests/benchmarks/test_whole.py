"""The rate of the public command: what is left out of it, its time limit, its last words."""

import sys
import time

import pytest

from benchmarks.training import whole
from benchmarks.training.failures import PartFailed
from benchmarks.training.whole import WARM_UP, Rate, last_word, steady_rate, whole_rate
from pretrain.settings import build_settings

SETTINGS = build_settings({"images": "photos", "masks": "masks", "log_every": 3})


def run_of(epochs: int, steps: int, rate) -> list[dict]:
    """Lines of a run; `rate` gives (images/s, share of waiting) of a step of an epoch."""
    lines = []
    for epoch in range(epochs):
        for place in range(steps):
            speed, wait = rate(epoch, place)
            line = {"step": len(lines) + 1, "epoch": epoch}
            lines.append(line | {"images_per_second": speed, "loader_wait": wait})
    return lines


def test_first_batches_are_left_out():
    lines = run_of(3, 64, lambda epoch, place: (10.0, 0.9) if place < 10 else (1000.0, 0.0))
    assert steady_rate(lines, 10) == pytest.approx(Rate(1000.0, 0.0))
    assert steady_rate(lines, 5).images_per_second < 500


def test_the_warm_up_is_left_out():
    lines = run_of(1, 200, lambda epoch, place: (1.0 if place < WARM_UP else 50.0, 0.0))
    assert steady_rate(lines, 10) == pytest.approx(Rate(50.0, 0.0))
    with pytest.raises(PartFailed, match="first 20 only warm up"):
        steady_rate(lines[:WARM_UP], 10)


def test_short_epochs_are_measured_with_their_first_batches():
    lines = run_of(30, 4, lambda epoch, place: (10.0, 0.5))
    assert steady_rate(lines, 10) == pytest.approx(Rate(10.0, 0.5))


def test_rate_is_the_mean_over_time():
    """Half of the steps at 100 and half at 300 images/s: 150 images/s, and most time at 100."""
    lines = run_of(1, 220, lambda epoch, place: ((100.0, 0.8), (300.0, 0.0))[place % 2])
    assert steady_rate(lines, 10) == pytest.approx(Rate(150.0, 0.6))


def run_with(script: str, tmp_path, **options) -> Rate:
    """`whole_rate` of a Python script in place of `pretrain`; it gets the same arguments."""
    start = (sys.executable, "-c", script)
    out = tmp_path / "run"
    return whole_rate(SETTINGS, "cpu", 1, 0.5, out, start=start, **options)


def test_a_run_that_ends_early_says_why(tmp_path):
    script = "import sys; print('hm'); sys.exit('Error: device is cuda, and there is none.')"
    with pytest.raises(PartFailed, match="code 1: Error: device is cuda, and there is none"):
        run_with(script, tmp_path)


def test_a_run_that_does_not_begin_is_stopped(tmp_path):
    started = time.monotonic()
    script = "import time; print('still compiling', flush=True); time.sleep(60)"
    with pytest.raises(PartFailed, match=r"made 0 of 20 steps to warm up in 3 s.*still compiling"):
        run_with(script, tmp_path, limit=3)
    assert time.monotonic() - started < 30


def test_a_run_is_read_and_stopped(tmp_path):
    script = """
import json, os, pathlib, sys, time
out = pathlib.Path(sys.argv[sys.argv.index("--out") + 1])
out.mkdir(exist_ok=True)
(out / "arguments").write_text(json.dumps([sys.argv, os.environ["OMP_NUM_THREADS"]]))
with (out / "metrics.jsonl").open("w") as file:
    for step in range(1, 61):
        line = {"step": step, "epoch": 0, "images_per_second": 80.0, "loader_wait": 0.25}
        print(json.dumps(line), file=file)
    print(json.dumps({"step": 60, "epoch": 0, "replaced": 1}), file=file)
time.sleep(60)
"""
    rate = run_with(script, tmp_path, environment={"OMP_NUM_THREADS": "7"})
    assert rate == pytest.approx(Rate(80.0, 0.25))
    arguments = (tmp_path / "run" / "arguments").read_text()
    assert '"pretrain", "photos"' in arguments and arguments.endswith('"7"]')
    assert "log_every=5" in arguments and "log_every=3" not in arguments


def test_a_deaf_run_is_killed(tmp_path, monkeypatch):
    monkeypatch.setattr(whole, "_TO_END", 0.2)
    script = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(60)"
    with pytest.raises(PartFailed):
        run_with(script, tmp_path, limit=1)


def test_torchruns_last_word_is_the_cause(tmp_path):
    log = tmp_path / "log"
    log.write_text(
        "Traceback (most recent call last):\n"
        "[rank1]: torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB.\n"
        "E1124 failed (exitcode: 1)\n"
        "torch.distributed.elastic.multiprocessing.errors.ChildFailedError: \n"
        "=====\n"
    )
    assert last_word(log).endswith("CUDA out of memory. Tried to allocate 2 GiB.")
    log.write_text("\n")
    assert last_word(log) == "it said nothing"
