"""The command group: its help, and a job that is stopped."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

REPOSITORY = Path(__file__).resolve().parents[2]


def test_help_names_every_command(probe):
    text = probe("--help").stdout
    for name in ("linear", "knn", "robustness", "neighbors", "gradients", "saliency", "export"):
        assert f"  {name} " in text
        assert "CHECKPOINT" in probe(name, "--help").stdout or name == "saliency"


def test_stopped_job_leaves_nothing(tmp_path, split_folder, resnet18_file):
    out = tmp_path / "results" / "out"
    command = [sys.executable, "-m", "evaluate", "knn", resnet18_file, split_folder]
    options = ["--image-size", "512", "--workers", "0", "--device", "cpu", "--out", out]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    job = subprocess.Popen(
        [str(part) for part in (*command, *options)], env=environment, stderr=subprocess.PIPE
    )
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("results/out/.results.*.tmp")):
        if time.monotonic() > deadline or job.poll() is not None:
            pytest.fail("the job did not begin to write")
        time.sleep(0.02)
    job.send_signal(signal.SIGTERM)
    assert job.wait(timeout=120) == 128 + signal.SIGTERM
    job.stderr.close()
    assert not list((tmp_path / "results").iterdir())


@pytest.mark.parametrize("device", ["meta", "hpu", "cuda:99", "nowhere"])
def test_devices_that_cannot_compute(probe, split_folder, device):
    result = probe("knn", "random:resnet18", split_folder, "--device", device, code=2)
    assert f"--device {device}" in result.stderr and result.stderr.count("\n") == 1


def test_two_models_of_one_name(probe, split_folder, resnet18_file):
    result = probe("knn", f"a={resnet18_file}", "a=random:resnet18", split_folder, code=2)
    assert "two of them are called 'a'" in result.stderr


@pytest.mark.parametrize(
    ("command", "option", "value"),
    [
        ("knn", "--temperature", "nan"),
        ("linear", "--lr", "nan"),
        ("linear", "--lr", "inf"),
        ("linear", "--lr", "1e39"),
        ("linear", "--seed", "-1"),
        ("gradients", "--seed", "-1"),
        ("robustness", "--seed", "-1"),
        ("linear", "--milestones", "0,5"),
        ("linear", "--milestones", "5,x"),
        ("saliency", "--rows", "0"),
        ("saliency", "--jobs", "0"),
    ],
)
def test_values_without_meaning(probe, split_folder, command, option, value):
    assert option in probe(command, split_folder, split_folder, option, value, code=2).stderr


def test_folders_whose_names_are_no_text(tmp_path):
    """A name is what the system gives; JSON and page tell it by escapes."""
    rng = np.random.default_rng(0)
    for name in (b"b\xffar", b"cat"):
        folder = os.path.join(os.fsencode(tmp_path), b"images", name)
        os.makedirs(folder)
        for number in range(4):
            picture = rng.integers(0, 255, (20, 20, 3), dtype=np.uint8)
            (Path(os.fsdecode(folder)) / f"{number}.png").write_bytes(
                cv2.imencode(".png", picture)[1].tobytes()
            )
    options = ["--image-size", "16", "--workers", "0", "--device", "cpu", "--out", "out", "--json"]
    command = ["neighbors", "random:resnet18", "images", "--neighbors", "2", *options]
    done = subprocess.run(
        [sys.executable, "-m", "evaluate", *command],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"},
        cwd=tmp_path, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for text in (done.stdout, (tmp_path / "out/results.json").read_text(encoding="utf-8")):
        assert {row["label"] for row in json.loads(text)["rows"]} == {"b\udcffar", "cat"}
