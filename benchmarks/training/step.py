"""What the device does in a training step, without the loader: the model, and the augmentation."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.training.device import PeakMemory, median_seconds
from data.device import tune_cuda
from pretrain.build import build_method, build_optimizer, check_sizes, in_bfloat16
from pretrain.contract import Views
from pretrain.parts.distributed import World
from pretrain.settings import Settings
from pretrain.views.augment import DeviceAugment


class SyntheticStep:
    """The whole training step but for loading and augmentation, on views that lie on the device."""

    def __init__(self, settings: Settings, images: int, device: torch.device) -> None:
        tune_cuda()
        here = World(0, 1, 0, 1, device)
        self.settings, self.device = settings, device
        self.method = build_method(settings, check_sizes(settings, images, 1), here)
        self.optimizer = build_optimizer(settings, self.method)
        if settings.compile:
            for network in self.method.networks():
                network.compile()
        size, batch = settings.image_size, settings.batch_size
        layout = torch.channels_last if settings.channels_last else torch.contiguous_format
        images = [
            torch.randn(batch, 3, size, size, device=device).contiguous(memory_format=layout)
            for _ in range(self.method.views)
        ]
        rows = torch.arange(batch, device=device)
        crops = torch.tensor([0.0, 0.0, size, size], device=device)
        self.views = Views(images, rows, rows, crops.expand(batch, len(images), 4))
        self.step = 0

    def __call__(self) -> None:
        """Forward, loss, backward, optimiser, and the bank's or queue's update."""
        enabled = in_bfloat16(self.settings, self.device)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=enabled):
            loss, _ = self.method(self.views, self.step)
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.method.update()
        self.step += 1

    def flops(self) -> int:
        """Floating-point operations of a step, by torch's own counter (not of a compiled step)."""
        with FlopCounterMode(display=False) as counter:
            self()
        return counter.get_total_flops()


class StepCost(NamedTuple):
    """What a training step on synthetic views takes."""

    seconds: float
    flops: int
    memory: float  # bytes of the device at most, all included; NaN on a CPU


def step_cost(settings: Settings, images: int, device: torch.device, seconds: float) -> StepCost:
    """Measure the step for at least so many seconds, and for 5 on a GPU.

    images : vectors in the bank.
    """
    uncompiled = settings.model_copy(update={"compile": False})
    flops = SyntheticStep(uncompiled, images, device).flops()
    step = SyntheticStep(settings, images, device)
    for _ in range(3):  # compile, and try algorithms, some of which take much memory
        step()
    memory = PeakMemory(device)
    least = max(5.0, seconds) if device.type == "cuda" else seconds
    took = median_seconds(step, device, least)
    return StepCost(took, flops, memory.read())


def augment_seconds(settings: Settings, batch: dict[str, object], device: torch.device) -> float:
    """Return the seconds of the device's augmentation of one of the loader's batches."""
    tune_cuda()
    there = {name: v.to(device) for name, v in batch.items() if isinstance(v, torch.Tensor)}
    augment = DeviceAugment(settings.view_recipe()).to(device)
    if settings.compile and device.type == "cuda":
        augment.compile()
    with torch.no_grad():
        return median_seconds(lambda: augment(there), device, repeat=10)
