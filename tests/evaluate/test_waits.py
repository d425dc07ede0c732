"""The host does not wait for a GPU in the middle of its work."""

import pytest
import torch

from data.device import to_host
from data.loading import IMAGENET_MEAN, of_channels
from evaluate.labelled import open_split
from evaluate.linear_training import Training
from evaluate.models import Model
from evaluate.protocols import Protocol
from pretrain.parts.distributed import World

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")


@pytest.fixture
def linear_probe(split_folder, model_of):
    """Make a linear probe whose batches are there already: loading them counts for nothing."""
    split = open_split(split_folder)

    def make(batch_size: int, device: str = "cpu") -> Training:
        settings = Protocol(lr=0.1, epochs=1, milestones=(), batch_size=batch_size)
        world = World(0, 1, 0, 1, torch.device(device))
        probe = Training(model_of(device=device), split, settings, world)
        probe.train_loader = list(probe.train_loader)
        return probe

    return make


def test_constants_first_made_in_inference_mode_serve_autograd():
    values = (0.25, 0.5, 0.125)  # of no other test
    with torch.inference_mode():
        of_channels(values, torch.zeros(1))
    inputs = torch.ones(1, 3, 2, 2, requires_grad=True)
    (inputs / of_channels(values, inputs)).sum().backward()
    assert inputs.grad[0, :, 0, 0].tolist() == [4, 2, 8]
    assert of_channels(IMAGENET_MEAN, inputs.double()).dtype is torch.float64


def test_to_host_keeps_order():
    tensors = [torch.full((2,), float(i)) for i in range(4)]
    assert [one.tolist() for one in to_host(iter(tensors))] == [one.tolist() for one in tensors]
    assert list(to_host([])) == []


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
def test_features_on_cuda(split_folder, model_of, no_waits, monkeypatch):
    images = open_split(split_folder).train
    batches = list(model_of(batch_size=4, device="cuda").batches(images))  # in pinned memory
    monkeypatch.setattr(Model, "batches", lambda *_, **__: batches)
    cpu = model_of().features(images, "images")
    model_of(device="cuda").features(images, "images")
    no_waits(True)
    cuda = model_of(device="cuda").features(images, "images")
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
