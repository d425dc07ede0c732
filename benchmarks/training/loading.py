"""What the loader delivers, and what one core does for an image."""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import Sampler

from benchmarks.training.device import wait_for
from data.images.crop import crop_resize
from data.images.decode import decode
from data.images.listing import key_path
from data.loading import Request
from pretrain.settings import Settings
from pretrain.views.draws import draw_view, uniforms
from pretrain.views.loader import Loader, build_loader


class _Endless(Sampler[Request]):
    """A loader's requests, epoch after epoch without an end."""

    def __init__(self, requests: Sampler[Request]) -> None:
        self._requests = requests

    def __iter__(self) -> Iterator[Request]:
        for epoch in itertools.count():
            self._requests.epoch = epoch
            yield from self._requests


def endless_loader(
    settings: Settings,
    images: Path,
    masks: Path | None,
    workers: int,
    *,
    paste: bool = True,
    device: torch.device,
    decode_on: torch.device | None = None,
) -> Loader:
    """Return the loader of a run whose only epoch never ends.

    At an epoch's end workers have nothing to do until the next one begins. ImageNet's epochs have
    5,000 steps, and nobody sees it; on a few images it would be all that one measures.
    """
    loader = build_loader(
        images,
        masks,
        recipe=settings.view_recipe(),
        paste=settings.paste_settings() if paste else None,
        batch_size=settings.batch_size,
        workers=workers,
        allow_missing_masks=True,
        decode_on=decode_on,
    )
    requests, pin = _Endless(loader.requests), device.type == "cuda"
    return Loader(loader.dataset, requests, workers, pin, loader.decoder)


def first_batch(loader: Loader) -> dict:
    """Return a loader's first batch, and close it."""
    batches = iter(loader)
    try:
        return next(batches)
    finally:
        batches.close()
        loader.close()


def loader_rate(
    loader: Loader, workers: int, batch_size: int, seconds: float, device: torch.device
) -> float:
    """Return the images a second of an endless loader in full swing, over so many seconds."""
    batches = iter(loader)
    try:
        for _ in range(2 * max(1, workers)):  # what was begun while the workers started
            next(batches)
        wait_for(device)
        started, count = time.perf_counter(), 0
        while time.perf_counter() - started < seconds:
            next(batches)
            count += batch_size
        wait_for(device)
        return count / (time.perf_counter() - started)
    finally:
        batches.close()
        loader.close()


def decode_and_crop(settings: Settings, loader: Loader, count: int) -> tuple[float, float]:
    """Return the median seconds of decoding and cropping an image's view, and of reading its mask.

    NaN for the mask where nothing is pasted.
    """
    dataset, recipe = loader.dataset, settings.view_recipe()
    decoding, reading = [], []
    for index in np.random.default_rng(0).permutation(len(dataset.keys))[:count]:
        started = time.perf_counter()
        image, size = decode(key_path(dataset.images, dataset.keys[int(index)]))
        draw = draw_view(recipe, None, uniforms(0, 0, int(index), 0), size)
        crop_resize(image, draw.box, recipe.image_size)
        decoding.append(time.perf_counter() - started)
        if dataset.rows is not None and dataset.rows.rows[index] >= 0:
            started = time.perf_counter()
            dataset.masks.read(int(dataset.rows.rows[index]))
            reading.append(time.perf_counter() - started)
    return statistics.median(decoding), statistics.median(reading or [float("nan")])
