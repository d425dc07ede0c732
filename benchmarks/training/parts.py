"""The parts of a training step, each timed alone."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from data.crop import crop_resize
from data.images import decode, key_path
from pretrain import losses
from pretrain.augment import DeviceAugment
from pretrain.build import build_method, build_optimizer
from pretrain.config import Settings
from pretrain.distributed import World
from pretrain.loader import Loader, build_loader
from pretrain.negatives import OwnDraws, SharedDraws, WholeMemory, stream_key
from pretrain.views import draw_view, uniforms


def median_seconds(call: Callable[[], object], repeat: int, device: torch.device) -> float:
    """Return the median seconds of a call, after two that warm up; the device's work included."""
    seconds = []
    for number in range(repeat + 2):
        started = time.perf_counter()
        call()
        if device.type == "cuda":
            torch.cuda.synchronize()
        if number >= 2:
            seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)


class SyntheticStep:
    """The whole training step but for loading and augmentation, on views that lie on the device."""

    def __init__(self, settings: Settings, images: int, device: torch.device) -> None:
        here = World(0, 1, 0, 1, device)
        self.settings, self.device, self.images = settings, device, images
        self.method = build_method(settings, images, here)
        self.optimizer = build_optimizer(settings, self.method)
        if settings.compile:
            for name in ("encoder", "encoder_q", "encoder_k"):
                if hasattr(self.method, name):
                    getattr(self.method, name).compile()
        size, batch = settings.image_size, settings.batch_size
        self.views = [
            torch.randn(batch, 3, size, size, device=device).contiguous(
                memory_format=torch.channels_last
            )
            for _ in range(self.method.views)
        ]
        self.index = torch.arange(batch, device=device)
        self.step = 0

    def __call__(self) -> None:
        """Forward, loss, backward, optimiser, and the bank's or queue's update."""
        enabled = self.settings.precision == "bfloat16" or (
            self.settings.precision == "auto" and self.device.type == "cuda"
        )
        with torch.autocast(self.device.type, torch.bfloat16, enabled=enabled):
            loss, output = self.method(self.views, self.index, self.step, self.index)
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.method.update(self.index, output)
        self.step += 1

    def flops(self) -> int:
        """Floating-point operations of a step, by torch's own counter (not of a compiled step)."""
        with FlopCounterMode(display=False) as counter:
            self()
        return counter.get_total_flops()


def matmul_flops(device: torch.device, dtype: torch.dtype) -> float:
    """Floating-point operations a second of a large product: what the device can do at best."""
    side = 8192 if device.type == "cuda" else 2048
    a = torch.randn(side, side, device=device, dtype=dtype)
    b = torch.randn(side, side, device=device, dtype=dtype)
    return 2 * side**3 / median_seconds(lambda: a @ b, 10, device)


def loader_of(
    settings: Settings,
    images: Path,
    masks: Path | None,
    workers: int,
    paste: bool,
    decode_on: torch.device | None = None,
) -> Loader:
    """Return the loader of a run."""
    return build_loader(
        images,
        masks,
        recipe=settings.view_recipe(),
        paste=settings.paste_settings() if paste else None,
        batch_size=settings.batch_size,
        workers=workers,
        allow_missing_masks=True,
        pin_memory=torch.cuda.is_available(),
        decode_on=decode_on,
    )


def endless(loader: Loader) -> Iterator[dict]:
    """Yield batches, epoch after epoch."""
    epoch = 0
    while True:
        loader.set_epoch(epoch)
        yield from loader
        epoch += 1


def loader_rate(loader: Loader, batch_size: int, seconds: float) -> float:
    """Images a second of a loader, once its workers run, over at least so many seconds."""
    batches = endless(loader)
    try:
        for _ in range(2 * max(1, loader._loader.num_workers)):  # what was prefetched meanwhile
            next(batches)
        started, count = time.perf_counter(), 0
        while time.perf_counter() - started < seconds:
            next(batches)
            count += batch_size
        return count / (time.perf_counter() - started)
    finally:
        batches.close()
        loader.close()


def decode_and_crop(settings: Settings, loader: Loader, count: int) -> tuple[float, float]:
    """Seconds of decoding and cropping one image's view, and of reading its mask; medians."""
    dataset, recipe = loader._dataset, settings.view_recipe()
    decoding, reading = [], []
    for index in np.random.default_rng(0).permutation(len(dataset))[:count]:
        started = time.perf_counter()
        image, size = decode(key_path(dataset.images, dataset.keys[int(index)]))
        draw = draw_view(recipe, None, uniforms(0, 0, int(index), 0), size)
        crop_resize(image, draw.box, recipe.image_size)
        decoding.append(time.perf_counter() - started)
        if dataset.rows is not None and dataset.rows.rows[index] >= 0:
            started = time.perf_counter()
            dataset.masks.read(int(dataset.rows.rows[index]))
            reading.append(time.perf_counter() - started)
    return statistics.median(decoding), statistics.median(reading or [0.0])


def augment_seconds(settings: Settings, loader: Loader, device: torch.device) -> float:
    """Seconds of the device's augmentation of one batch."""
    batches = endless(loader)
    batch = next(batches)
    batches.close()
    batch = {name: v.to(device) for name, v in batch.items() if isinstance(v, torch.Tensor)}
    augment = DeviceAugment(settings.view_recipe()).to(device)
    if settings.compile and device.type == "cuda":
        augment.compile()
    with torch.no_grad():
        return median_seconds(lambda: augment(batch), 10, device)


def loss_rows(
    batch: int, dim: int, bank: int, device: torch.device
) -> list[tuple[str, float, float]]:
    """Time and peak memory of the losses: (name, seconds, bytes beyond what lay there before).

    The bytes are known on CUDA alone; NaN elsewhere.
    """
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn(bank, dim, generator=generator).to(device)
    vectors = torch.nn.functional.normalize(vectors, dim=1)
    features = vectors[:batch].clone().requires_grad_()
    positives, rows = vectors[:batch], torch.arange(batch, device=device)
    key = stream_key(0, 0)
    ways = {
        f"softmax over all {bank:,}": lambda: WholeMemory(vectors, batch),
        "65,536 shared negatives": lambda: SharedDraws(vectors, 65536, key, batch),
        "4,096 negatives a sample": lambda: OwnDraws(vectors, 4096, key, rows),
    }

    def chunked(negatives) -> None:
        drawn = negatives()
        loss = losses.softmax_nce(features, positives, drawn, 0.07, drawn.positive_included)
        loss.mean().backward()
        features.grad = None

    def plain() -> None:
        logits = features @ vectors.T / 0.07
        torch.nn.functional.cross_entropy(logits, rows).backward()
        features.grad = None

    calls = {name: (lambda way=way: chunked(way)) for name, way in ways.items()}
    calls[f"plain PyTorch over all {bank:,}, logits stored"] = plain
    table = []
    for name, call in calls.items():
        peak = float("nan")
        if device.type == "cuda":
            torch.cuda.synchronize()
            before = torch.cuda.memory_allocated()
            torch.cuda.reset_peak_memory_stats()
            call()
            torch.cuda.synchronize()
            peak = torch.cuda.max_memory_allocated() - before
        table.append((name, median_seconds(call, 5, device), peak))
    return table
