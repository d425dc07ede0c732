"""The benchmark of training: its parts on a few small images, and its order."""

import io
import math
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from benchmarks.training import __main__ as program
from benchmarks.training import throughput
from benchmarks.training.data import make_photographs
from benchmarks.training.failures import PartFailed
from benchmarks.training.loading import (
    decode_and_crop,
    endless_loader,
    first_batch,
    loader_rate,
)
from benchmarks.training.losses import loss_cost, loss_rows
from benchmarks.training.plain_script import plain_rate
from benchmarks.training.step import augment_seconds, step_cost
from benchmarks.training.whole import Rate
from pretrain.settings import Settings, build_settings

CPU = torch.device("cpu")
SMALL = {"arch": "resnet18", "image_size": 32, "batch_size": 8, "negatives": "all"}


@pytest.fixture(scope="module")
def photographs(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("photographs")
    make_photographs(folder, 24)
    return folder


@pytest.fixture
def tuned(monkeypatch) -> list[str]:
    """Note which parts set what `pretrain` sets on a GPU."""
    parts = []
    for name in ("step", "losses", "plain_script", "device"):
        note = lambda name=name: parts.append(name)  # noqa: E731
        monkeypatch.setattr(f"benchmarks.training.{name}.tune_cuda", note)
    return parts


def settings_of(photographs: Path, **changed) -> Settings:
    return build_settings(SMALL, {"images": str(photographs), "paste_probability": 0.0}, changed)


def test_the_loader_goes_on_over_its_epochs(photographs):
    settings = settings_of(photographs)
    loader = endless_loader(settings, photographs, None, 1, device=CPU)
    batches = iter(loader)
    seen = [next(batches)["index"].tolist() for _ in range(7)]  # an epoch has three
    batches.close()
    loader.close()
    epochs = [[*seen[start], *seen[start + 1], *seen[start + 2]] for start in (0, 3)]
    assert sorted(epochs[0]) == sorted(epochs[1]) == list(range(24)) and epochs[0] != epochs[1]
    loader = endless_loader(settings, photographs, None, 1, device=CPU)
    assert loader_rate(loader, 1, 8, 0.2, CPU) > 0


def test_without_pasting_no_mask_is_read(photographs):
    settings = settings_of(photographs)
    loader = endless_loader(settings, photographs, None, 0, device=CPU)
    decoding, reading = decode_and_crop(settings, loader, 4)
    assert decoding > 0 and math.isnan(reading)


def test_step_and_augmentation(photographs, tuned):
    settings = settings_of(photographs)
    step = step_cost(settings, 24, CPU, 0.0)
    assert step.seconds > 0 and step.flops > 1e8 and math.isnan(step.memory)
    batch = first_batch(endless_loader(settings, photographs, None, 0, device=CPU))
    assert augment_seconds(settings, batch, CPU) > 0
    assert set(tuned) == {"step"}


def test_losses(tuned):
    rows = loss_rows(4, 8, 70_000, CPU)
    assert len(rows) == 4 and tuned == ["losses"]
    assert loss_cost(rows["softmax over all 70,000"], CPU).seconds > 0


def test_a_loss_has_its_own_memory_alone(monkeypatch):
    """Played: 1 GB lay there before, 3 GB were used by the first call alone, 1.5 by the second."""
    used = iter([3.0, 1.5])
    peak = 0.0

    class Played:
        before = 1.0

        def __init__(self, device) -> None:
            nonlocal peak
            peak = 0.0

        def read(self) -> float:
            return peak

    def call() -> None:
        nonlocal peak
        peak = max(peak, next(used, 0.0))

    monkeypatch.setattr("benchmarks.training.losses.PeakMemory", Played)
    assert loss_cost(call, CPU).memory == 0.5


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_plain_script_has_the_precision_of_the_run(photographs, tuned, monkeypatch, precision):
    enabled = set()
    autocast = torch.autocast

    def noted(kind, dtype, enabled=True, seen=enabled):
        seen.add(enabled)
        return autocast(kind, dtype, enabled=enabled)

    monkeypatch.setattr(torch, "autocast", noted)
    settings = settings_of(photographs, precision=precision)
    assert plain_rate(settings, photographs, 0, CPU, 0.1) > 0
    assert enabled == {precision == "bfloat16"} and tuned == ["plain_script"]


@pytest.fixture
def played(monkeypatch, photographs) -> list[str]:
    """All parts but the table replaced; names of those that run processes are noted."""
    ran = []
    monkeypatch.setattr(program, "make_images_and_masks", lambda *_: (photographs, "masks"))
    monkeypatch.setattr(throughput, "step_cost", lambda *_: throughput.StepCost(0.1, 10**9, 2e9))
    monkeypatch.setattr(throughput, "product_flops", lambda *_: 1e12)
    monkeypatch.setattr(throughput, "decode_and_crop", lambda *_: (0.002, 0.0002))
    monkeypatch.setattr(throughput.Subject, "loader", lambda *_, **__: io.BytesIO())  # closes
    monkeypatch.setattr(throughput, "loader_rate", lambda *_: 500.0)
    monkeypatch.setattr(throughput, "first_batch", lambda *_: {})
    monkeypatch.setattr(throughput, "augment_seconds", lambda *_: 0.01)
    monkeypatch.setattr(throughput, "plain_rate", lambda *_: 300.0)
    monkeypatch.setattr(program, "loss_rows", lambda *_: {"a loss": lambda: None})
    monkeypatch.setattr(
        throughput, "whole_rate", lambda *a, **k: ran.append(a[1]) or Rate(400.0, 0.01)
    )
    monkeypatch.setattr(program, "processes_rate", lambda *a: ran.append(a[2]) or Rate(400.0, 0.01))
    return ran


def run(*arguments: str):
    return CliRunner().invoke(program.main, ["--device", "cpu", *arguments])


def test_all_parts_in_their_order(played):
    result = run("--processes", "4", "--workers", "3")
    assert result.exit_code == 0, result.output
    assert played == ["cpu", 1, 4]
    rows = [line[2:52].strip() for line in result.output.splitlines() if line.startswith("| ")]
    assert rows[1:3] == [
        "model on synthetic views: the ceiling",
        "its share of a large product in bfloat16 here",
    ]
    assert rows[-1] == "4 processes" and "a loss" in rows
    assert "loader, 3 workers" in rows and "loader, 3 workers, nothing pasted" in rows
    assert "plain PyTorch script: no compile, no copy-paste" in rows
    assert "peak memory of the device 2.0 GB" in result.output


def test_float32_is_compared_with_a_product_in_float32(played):
    assert "a large product in float32 here" in run("--set", "precision=float32").output


def test_one_failed_part_loses_no_other(played, monkeypatch):
    def fail(*_, **__):
        raise PartFailed("pretrain ended with code 2: Error: no such GPU")

    monkeypatch.setattr(throughput, "whole_rate", fail)
    monkeypatch.setattr(throughput, "step_cost", fail)
    result = run("--processes", "2")
    assert result.exit_code == 1
    assert "failed | pretrain ended with code 2: Error: no such GPU |" in result.output
    assert played == [1, 2]
    assert "| plain PyTorch script" in result.output and "| 2 processes " in result.output
    assert "Not measured: model on synthetic views: the ceiling; whole, by" in result.output


def test_a_mistake_is_told_before_the_work(played, monkeypatch):
    monkeypatch.setattr(program, "make_images_and_masks", lambda *_: pytest.fail("too early"))
    result = run("--set", "arhc=resnet18")
    assert result.exit_code == 2 and "did you mean 'arch'" in result.output
