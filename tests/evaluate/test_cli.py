"""The command group: its help, a job that is stopped, several processes under torchrun."""

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
import torch

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
    result = probe("knn", resnet18_file, resnet18_file, split_folder, code=2)
    assert "two of them are called 'resnet18.pt'" in result.stderr


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
        ("saliency", "--rows", "0"),
        ("saliency", "--jobs", "0"),
    ],
)
def test_values_without_meaning(probe, split_folder, command, option, value):
    assert option in probe(command, split_folder, split_folder, option, value, code=2).stderr


def test_folders_whose_names_are_no_text(tmp_path, probe):
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
    options = ("--image-size", 16, "--workers", 0, "--device", "cpu", "--out", tmp_path / "out")
    shown = probe(
        "neighbors", "random:resnet18", tmp_path / "images", "--neighbors", 2, "--json", *options
    ).stdout
    for text in (shown, (tmp_path / "out/results.json").read_text(encoding="utf-8")):
        assert {row["label"] for row in json.loads(text)["rows"]} == {"b\udcffar", "cat"}


@pytest.fixture
def as_rank(monkeypatch):
    """Make this process one of several, as torchrun would, on one host or the second of two."""

    def become(rank: int, size: int = 2, hosts: int = 1) -> None:
        local = size // hosts
        for name, value in {
            "RANK": rank, "WORLD_SIZE": size, "LOCAL_RANK": rank % local, "LOCAL_WORLD_SIZE": local,
        }.items():  # fmt: skip
            monkeypatch.setenv(name, str(value))

    return become


@pytest.mark.parametrize(
    "command",
    [
        ("knn", "random:resnet18"),
        ("neighbors", "random:resnet18"),
        ("gradients", "random:resnet18"),
        ("robustness", "random:resnet18"),
        ("linear", "--fast", "random:resnet18"),
        ("saliency", "masks"),
        ("export", "random:resnet18"),
    ],
)
def test_work_of_one_process_is_refused_to_several(as_rank, probe, tmp_path, command):
    as_rank(0)
    refused = probe(*command, tmp_path, code=2)
    name = " ".join(part for part in command[:2] if part in ("linear", "--fast")) or command[0]
    assert f"Error: probe {name} runs in one process, and WORLD_SIZE is 2" in refused.output
    as_rank(1)
    assert probe(*command, tmp_path, code=2).output == ""


def test_one_process_of_torchrun_may_do_anything(as_rank, probe, tmp_path):
    as_rank(0, 1)
    probe("export", "random:resnet18", tmp_path / "w.pt")
    assert (tmp_path / "w.pt").is_file()


def test_each_host_says_a_mistake_once(as_rank, probe, tmp_path):
    command = ("linear", "random:resnet18", tmp_path / "none", "--device", "cpu")
    said = []
    for rank in range(4):
        as_rank(rank, 4, hosts=2)
        said.append(probe(*command, "--lr", "nan", code=2).output.count("Error: "))
    assert said == [1, 0, 1, 0]


def test_a_launcher_that_sets_no_local_rank(probe, tmp_path, monkeypatch):
    for name, value in {"RANK": "1", "WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    assert probe("knn", "random:resnet18", tmp_path, code=2).output == ""


def test_more_processes_than_gpus_are_told_by_the_first(
    as_rank, probe, split_folder, tmp_path, monkeypatch
):
    """The first has a GPU, and would wait in vain for those that have none."""
    as_rank(0, 3)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(
        torch.distributed, "init_process_group", lambda *_: pytest.fail("it would wait")
    )
    command = ("linear", "random:resnet18", split_folder, "--device", "cuda", "--workers", 0)
    refused = probe(*command, "--out", tmp_path / "out", code=2)
    assert "finds only 2 GPUs here; start 2 processes" in refused.output
