"""`probe` under torchrun: one voice, and only `linear` in several processes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

REPOSITORY = Path(__file__).resolve().parents[2]


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


def test_torchrun_shows_one_sentence(tmp_path):
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "evaluate"]
    done = subprocess.run(
        [sys.executable, *launch, "knn", "random:resnet18", str(tmp_path)],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)},
        cwd=REPOSITORY, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode != 0
    assert (done.stdout + done.stderr).count("Error: probe knn") == 1
