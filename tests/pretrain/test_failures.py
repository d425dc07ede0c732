"""Ends that no check of the settings foresees: each is one sentence, and what was saved stays."""

import errno
import os
import resource
import signal

import pytest
import torch

from data import run as checkpoint
from data.errors import RunFailed, UserError
from data.metrics import Metrics
from pretrain import trainer
from pretrain.trainer import train
from tests.pretrain.runs import losses, tiny


def test_full_disk(photographs, tmp_path):
    """Files may grow to 40 MB, checkpoints are larger: as on a full disk, a write falls short."""
    out = tmp_path / "run"
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (40_000_000, limits[1]))
    try:
        with pytest.raises(UserError, match=r"checkpoint-.* cannot be used \(file too large\)"):
            train(tiny(photographs), out)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list((out / "checkpoints").iterdir()) == []  # nothing half-written takes up room
    assert train(tiny(photographs), out, resume=True).done
    assert max(losses(out)) == 6


def test_metrics_that_cannot_be_written(photographs, tmp_path, monkeypatch):
    def flush(self):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Metrics, "flush", flush)
    with pytest.raises(UserError, match=r"\(no space left on device\); .* with --resume"):
        train(tiny(photographs), tmp_path / "run")


@pytest.mark.parametrize("out", ["file/run", "file/run/deeper"])
def test_a_folder_that_cannot_be_made(photographs, tmp_path, out):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"run.* cannot be used \(not a directory\)"):
        train(tiny(photographs), tmp_path / out)


def test_exhausted_memory(photographs, tmp_path, monkeypatch):
    def augment(*arguments):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    monkeypatch.setattr(trainer.DeviceAugment, "forward", augment)
    with pytest.raises(UserError, match=r"memory is exhausted.*; batch_size is 4; .* accumulate"):
        train(tiny(photographs), tmp_path / "run")


def test_a_loading_process_that_is_killed(photographs, tmp_path, monkeypatch):
    rate = trainer.learning_rate

    def kill_workers(step, *arguments, **options):
        if step == 4:
            for child in torch.multiprocessing.active_children():
                os.kill(child.pid, signal.SIGKILL)
        return rate(step, *arguments, **options)

    monkeypatch.setattr(trainer, "learning_rate", kill_workers)
    with pytest.raises(RunFailed, match=r"loading process .* killed .* with --resume"):
        train(tiny(photographs, workers=1, epochs=50), tmp_path / "run")
    assert checkpoint.checkpoints(tmp_path / "run" / "checkpoints")


def test_full_shared_memory(photographs, tmp_path, monkeypatch):
    """PyTorch alone would wait indefinitely: the thread that sends a batch fails unheard."""

    def full(size):
        raise RuntimeError("unable to allocate shared memory(shm) for file </x>: No space left")

    monkeypatch.setattr(torch.UntypedStorage, "_new_shared", full)
    with pytest.raises(UserError, match=r"shared memory is full .* enlarge it"):
        train(tiny(photographs, workers=1), tmp_path / "run")


def test_what_is_a_bug_stays_an_exception(photographs, tmp_path, monkeypatch):
    def augment(*arguments):
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr(trainer.DeviceAugment, "forward", augment)
    with pytest.raises(RuntimeError, match="shapes"):
        train(tiny(photographs), tmp_path / "run")


def test_weights_that_are_not_finite_are_not_saved(photographs, tmp_path, monkeypatch):
    """An update may ruin the weights behind a finite loss, at the very step of a checkpoint."""
    rate = trainer.learning_rate
    monkeypatch.setattr(
        trainer,
        "learning_rate",
        lambda step, *a, **o: float("inf") if step == 5 else rate(step, *a, **o),
    )
    out = tmp_path / "run"
    with pytest.raises(RunFailed, match=r"weights .* step 6; the last good .*00000003"):
        train(tiny(photographs, epochs=3), out)
    assert [step for step, _ in checkpoint.checkpoints(out / "checkpoints")] == [3]
