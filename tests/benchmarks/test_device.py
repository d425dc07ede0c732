"""The device that is named is the one that is measured; its clock, and what is known of it."""

import time

import pytest
import torch

from benchmarks.training import device as module
from benchmarks.training.device import (
    PeakMemory,
    current_device,
    median_seconds,
    processes_at_most,
    published_flops,
    wait_for,
)
from benchmarks.training.scaling import processes_rate
from pretrain.build import in_bfloat16
from pretrain.settings import build_settings

CPU, SECOND = torch.device("cpu"), torch.device("cuda:1")


@pytest.fixture
def two_gpus(monkeypatch) -> list[tuple]:
    """Two played GPUs; what is asked of torch.cuda is noted."""
    asked = []
    for name in ("synchronize", "reset_peak_memory_stats", "set_device"):
        note = lambda device=None, name=name: asked.append((name, str(device)))  # noqa: E731
        monkeypatch.setattr(torch.cuda, name, note)
    for name, found in (("memory_allocated", 100), ("max_memory_allocated", 350)):
        note = lambda device=None, n=name, f=found: asked.append((n, str(device))) or f  # noqa: E731
        monkeypatch.setattr(torch.cuda, name, note)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr("data.device._try_out", lambda device: None)
    return asked


def test_the_second_gpu_is_measured(two_gpus):
    assert current_device("cuda:1") == SECOND
    assert current_device("cuda") == torch.device("cuda:0")
    wait_for(SECOND)
    memory = PeakMemory(SECOND)
    assert memory.read() - memory.before == 250
    names = {name for name, _ in two_gpus}
    assert names >= {"synchronize", "memory_allocated", "max_memory_allocated"}
    assert {device for _, device in two_gpus[2:]} == {"cuda:1"}
    assert two_gpus[:2] == [("set_device", "cuda:1"), ("set_device", "cuda:0")]


def test_no_more_processes_than_gpus(two_gpus):
    assert processes_at_most(8, "auto", SECOND) == 2
    assert processes_at_most(2, "cuda:1", SECOND) == 1
    assert processes_at_most(4, "cpu", CPU) == 4


def test_a_process_has_its_share_of_the_workers(monkeypatch, tmp_path):
    seen = []
    monkeypatch.setattr(
        "benchmarks.training.scaling.whole_rate",
        lambda settings, device, workers, *_, start, environment: seen.append(
            (settings.batch_size, device, workers, start[-2])
        ),
    )
    settings = build_settings({"batch_size": 32})
    for count in (1, 2, 16):
        processes_rate(settings, SECOND, count, 12, 1.0, tmp_path)
    assert seen == [(32, "cuda", 12, "1"), (64, "cuda", 6, "2"), (512, "cuda", 1, "16")]


def test_a_call_is_repeated_until_the_time_is_up():
    calls = []

    def call() -> None:
        calls.append(None)
        time.sleep(0.01)

    assert median_seconds(call, CPU, repeat=3) == pytest.approx(0.01, abs=0.009)
    assert len(calls) == 5
    calls.clear()
    started = time.perf_counter()
    median_seconds(call, CPU, seconds=0.3, repeat=3)
    assert time.perf_counter() - started >= 0.3 and len(calls) > 5


def test_the_clock_waits_for_rounds_of_calls_on_a_gpu(two_gpus):
    calls = []
    median_seconds(lambda: calls.append(None), SECOND, repeat=3)
    assert len(calls) == 25 and two_gpus == [("synchronize", "cuda:1")] * 5


@pytest.mark.parametrize(
    "precision, on_cpu, on_gpu",
    [("auto", False, True), ("float32", False, False), ("bfloat16", True, True)],
)
def test_precision_is_that_of_pretrain(precision, on_cpu, on_gpu):
    settings = build_settings({"precision": precision})
    assert in_bfloat16(settings, CPU) == on_cpu and in_bfloat16(settings, SECOND) == on_gpu


@pytest.mark.parametrize(
    "name, peak",
    [
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H200", 989e12),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA H100 PCIe", None),
        ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", None),
    ],
)
def test_published_peaks_are_of_that_very_board(name, peak, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: name)
    assert published_flops(SECOND) == peak
    assert module.published_flops(CPU) is None
