"""Which device a process takes."""

import pytest
import torch

from data.errors import UserError
from pretrain.parts.distributed import choose_device


@pytest.mark.parametrize(
    ("name", "gpus", "place", "device"),
    [
        ("auto", 0, (0, 1), "cpu"),
        ("auto", 2, (0, 1), "cuda:0"),
        ("auto", 2, (1, 2), "cuda:1"),
        ("cuda", 2, (1, 2), "cuda:1"),
        ("cuda:1", 2, (0, 1), "cuda:1"),
        ("cpu", 2, (1, 2), "cpu"),
    ],
)
def test_devices(monkeypatch, name, gpus, place, device):
    with_gpus(monkeypatch, gpus)
    assert choose_device(name, *place) == torch.device(device)


@pytest.mark.parametrize(
    ("name", "gpus", "place", "words"),
    [
        ("banana", 1, (0, 1), "device is 'banana'; give auto, cpu"),
        ("", 1, (0, 1), "device is ''; give auto, cpu"),
        ("meta", 1, (0, 1), "device is 'meta'; give auto, cpu"),
        ("cuda:x", 1, (0, 1), "device is 'cuda:x'; give auto, cpu"),
        ("cuda", 0, (0, 1), "device is 'cuda', and PyTorch finds no GPU here; give auto or cpu"),
        ("cuda:7", 1, (0, 1), "device is 'cuda:7', and PyTorch finds only one GPU"),
        ("cuda", 2, (2, 4), "finds only 2 GPUs here; start 2 processes"),
        ("cuda", 2, (0, 4), "finds only 2 GPUs here; start 2 processes"),
        ("cuda:1", 2, (0, 2), "device is 'cuda:1' for 2 processes; give cuda"),
    ],
)
def test_devices_that_are_not_there(monkeypatch, name, gpus, place, words):
    with_gpus(monkeypatch, gpus)
    with pytest.raises(UserError, match=words):
        choose_device(name, *place)


def with_gpus(monkeypatch, count):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
