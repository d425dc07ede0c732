"""The host does not wait for a GPU in the middle of its work."""

from collections import Counter

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from data.loading import IMAGENET_MEAN, normalise, of_channels
from evaluate.labelled import open_split
from evaluate.linear import Protocol
from evaluate.linear_training import LinearProbe
from evaluate.models import extract
from evaluate.to_host import to_host
from pretrain.parts.distributed import World

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")


class Waits(TorchDispatchMode):
    """Counts what makes the host wait for a GPU: values from Python's numbers, and into them."""

    OPERATORS = (torch.ops.aten.lift_fresh, torch.ops.aten._local_scalar_dense)

    def __init__(self):
        super().__init__()
        self.seen = Counter()

    def __torch_dispatch__(self, operator, types, arguments=(), named=None):
        self.seen[operator.overloadpacket in self.OPERATORS] += 1
        return operator(*arguments, **(named or {}))

    @property
    def count(self) -> int:
        return self.seen[True]


@pytest.fixture
def linear_probe(split_folder, colour_backbone):
    """Make a linear probe whose batches are there already: loading them counts for nothing."""
    split = open_split(split_folder)

    def make(batch_size: int, device: str = "cpu") -> LinearProbe:
        settings = Protocol(lr=0.1, epochs=1, milestones=(), batch_size=batch_size)
        world = World(0, 1, 0, 1, torch.device(device))
        probe = LinearProbe(colour_backbone, split, settings, world, 16, 0)
        probe.train_loader = list(probe.train_loader)
        return probe

    return make


def test_normalise_brings_its_constants_once():
    pixels = torch.randint(0, 256, (2, 5, 5, 3), dtype=torch.uint8)
    normalise(pixels)
    with Waits() as waits:
        normalise(pixels)
    assert waits.seen[False] and not waits.count


def test_constants_first_made_in_inference_mode_serve_autograd():
    values = (0.25, 0.5, 0.125)  # of no other test
    with torch.inference_mode():
        of_channels(values, torch.zeros(1))
    inputs = torch.ones(1, 3, 2, 2, requires_grad=True)
    (inputs / of_channels(values, inputs)).sum().backward()
    assert inputs.grad[0, :, 0, 0].tolist() == [4, 2, 8]
    assert of_channels(IMAGENET_MEAN, inputs.double()).dtype is torch.float64


def test_a_linear_probes_epoch_waits_as_often_for_9_steps_as_for_3(linear_probe):
    counts = []
    for batch_size, steps in ((12, 3), (4, 9)):
        probe = linear_probe(batch_size)
        assert len(probe.batches) == steps
        probe._train(probe.head, 0)  # from here on the constants are there
        with Waits() as waits:
            probe._train(probe.head, 0)
        assert waits.seen[False] > 10 * steps
        counts.append(waits.count)
    assert counts[0] == counts[1]


def test_to_host_keeps_order():
    tensors = [torch.full((2,), float(i)) for i in range(4)]
    assert [one.tolist() for one in to_host(iter(tensors))] == [one.tolist() for one in tensors]
    assert list(to_host([])) == []


def test_to_host_waits_one_tensor_late(monkeypatch):
    """With stand-ins for CUDA: what is asked of it, and in which order."""
    log = []

    class Event:
        def record(self, stream):
            log.append(f"copy {stream}")

        def synchronize(self):
            log.append("wait")

    class OnDevice:
        device = torch.device("cuda", 1)

        def __init__(self, number):
            log.append(f"compute {number}")
            self.number = number

        def to(self, device, non_blocking):
            assert device == "cpu" and non_blocking
            return torch.tensor(self.number)

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: device.index)
    assert [int(one) for one in to_host(OnDevice(number) for number in range(3))] == [0, 1, 2]
    assert log == [
        "compute 0", "copy 1", "compute 1", "copy 1", "wait", "compute 2", "copy 1", "wait", "wait",
    ]  # fmt: skip


@needs_cuda
def test_to_host_from_cuda_is_whole_and_pageable():
    tensors = [torch.full((1000, 1000), float(i), device="cuda") for i in range(5)]
    found = list(to_host(one * 2 for one in tensors))
    assert [one.unique().tolist() for one in found] == [[0], [2], [4], [6], [8]]
    assert not any(one.is_pinned() for one in found)


@pytest.fixture
def no_waits():
    """On CUDA a wait is an error between `no_waits(True)` and `no_waits(False)`."""
    yield lambda strict: torch.cuda.set_sync_debug_mode("error" if strict else "default")
    torch.cuda.set_sync_debug_mode("default")


@needs_cuda
def test_features_on_cuda(colour_backbone, no_waits):
    batches = [
        {
            "index": torch.arange(4),
            "image": torch.randint(0, 256, (4, 16, 16, 3), dtype=torch.uint8).pin_memory(),
            "unreadable": [],
        }
        for _ in range(3)
    ]
    cpu = extract(colour_backbone, batches, 12, torch.device("cpu"))
    extract(colour_backbone, batches, 12, torch.device("cuda"))
    no_waits(True)
    cuda = extract(colour_backbone, batches, 12, torch.device("cuda"))
    torch.testing.assert_close(cuda.features, cpu.features)


@needs_cuda
def test_a_linear_probes_steps_on_cuda(linear_probe, no_waits):
    probe = linear_probe(4, "cuda")
    probe._train(probe.head, 0)
    batches = probe.train_loader

    def strict():
        no_waits(True)
        yield from batches
        no_waits(False)

    probe.train_loader = strict()
    probe._train(probe.head, 0)
