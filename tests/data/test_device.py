"""What goes to a GPU must not wait for what the GPU computes; the GPU is played."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from data.device import pick_device, sent
from data.errors import UserError
from saliency.classifier import ClassMethod, pixel_scale

GPU = torch.device("cuda:1")


@pytest.fixture
def copies(monkeypatch):
    """Copies to the GPU, which the CPU plays: whether the source was pinned, and non_blocking."""
    made, pinned = [], set()
    to = torch.Tensor.to

    def pin(tensor):
        copy = tensor.clone()
        pinned.add(copy.data_ptr())
        return copy

    def played(tensor, *arguments, **more):
        if GPU not in [a for a in arguments if isinstance(a, torch.device)]:
            return to(tensor, *arguments, **more)
        made.append((tensor.data_ptr() in pinned, more.get("non_blocking", False)))
        return tensor

    def refused(function):
        def call(*arguments, device=None, **more):
            assert device != GPU, "a copy from memory that is not pinned waits for the GPU"
            return function(*arguments, device=device, **more)

        return call

    monkeypatch.setattr(torch.Tensor, "pin_memory", pin)
    monkeypatch.setattr(torch.Tensor, "to", played)
    for name in ("tensor", "as_tensor"):
        monkeypatch.setattr(torch, name, refused(getattr(torch, name)))
    return made


def test_values_are_sent_without_waiting(copies):
    values = torch.arange(3)
    assert torch.equal(sent(values, GPU), values)
    assert copies == [(True, True)]


def test_on_the_cpu_nothing_is_pinned(copies):
    values = torch.arange(3)
    assert sent(values, torch.device("cpu")) is values
    assert copies == []


class Means(torch.nn.Module):
    """Class c scores the mean of channel c."""

    def __init__(self):
        super().__init__()
        self.fc = torch.nn.Linear(3, 3)

    def forward(self, x):
        return self.fc(x.mean(dim=(2, 3)))


def test_classes_of_a_batch_are_sent_without_waiting(copies):
    method = ClassMethod(
        Means(), torch.device("cpu"), batch_size=2, classes={"a": 1, "b": 2}, size=32
    )
    seen = []
    method.maps = lambda batch, classes: (seen.append(classes.tolist()), batch)
    method.device = GPU
    method.compute(torch.rand(2, 3, 32, 32), ["b/1.png", "a/2.png"])
    assert seen == [[2, 1]] and copies == [(True, True)]


def test_scale_of_a_gradient_is_sent_without_waiting(copies):
    scale = pixel_scale(SimpleNamespace(dtype=torch.float32, device=GPU))
    assert scale.shape == (1, 3, 1, 1) and scale.dtype == torch.float32
    np.testing.assert_allclose(scale.flatten(), 1 / np.array([0.229, 0.224, 0.225]), rtol=1e-6)
    assert copies == [(True, True)]


@pytest.mark.parametrize(
    ("name", "gpus", "place", "device"),
    [
        ("auto", 2, (0, 1), "cuda:0"),
        ("auto", 2, (1, 2), "cuda:1"),
        ("cuda", 2, (1, 2), "cuda:1"),
        ("cuda:1", 2, (0, 1), "cuda:1"),
        ("cpu", 2, (1, 2), "cpu"),
    ],
)
def test_devices(monkeypatch, name, gpus, place, device):
    with_gpus(monkeypatch, gpus)
    assert pick_device(name, *place) == torch.device(device)


@pytest.mark.parametrize(
    ("name", "gpus", "place", "words"),
    [
        ("banana", 1, (0, 1), "--device banana is no device; give auto, cpu"),
        ("", 1, (0, 1), "--device  is no device; give auto, cpu"),
        ("meta", 1, (0, 1), "--device meta is no device; give auto, cpu"),
        ("cuda:x", 1, (0, 1), "--device cuda:x is no device; give auto, cpu"),
        ("cuda", 0, (0, 1), "--device cuda: PyTorch finds no GPU here; give auto or cpu"),
        ("cuda:7", 1, (0, 1), "--device cuda:7: PyTorch finds only one GPU"),
        ("cuda", 2, (2, 4), "finds only 2 GPUs here; start 2 processes"),
        ("cuda", 2, (0, 4), "finds only 2 GPUs here; start 2 processes"),
        ("cuda:1", 2, (0, 2), "--device cuda:1 for 2 processes; give cuda"),
    ],
)
def test_devices_that_are_not_there(monkeypatch, name, gpus, place, words):
    with_gpus(monkeypatch, gpus)
    with pytest.raises(UserError, match=words):
        pick_device(name, *place)


def with_gpus(monkeypatch, count):
    monkeypatch.setattr("data.device._try_out", lambda device: None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
