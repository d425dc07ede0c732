"""The table of all parts and of the whole, from JPEG to gradient."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks.training.device import product_flops, published_flops
from benchmarks.training.failures import Failures
from benchmarks.training.loading import (
    decode_and_crop,
    endless_loader,
    first_batch,
    loader_rate,
)
from benchmarks.training.plain_script import plain_rate
from benchmarks.training.step import StepCost, augment_seconds, step_cost
from benchmarks.training.table import Table
from benchmarks.training.whole import Rate, whole_rate
from data.images.listing import list_images
from pretrain.build import in_bfloat16
from pretrain.settings import Settings
from pretrain.views.loader import Loader


@dataclass(frozen=True)
class Subject:
    """What is measured.

    Attributes
    ----------
    settings : of `pretrain`, with `images` and `masks`.
    workers : loading processes of the whole.
    cores : that there are.
    seconds : of a row; the whole takes twice as many.
    folder : for runs.
    """

    settings: Settings
    device: torch.device
    workers: int
    cores: int
    seconds: float
    folder: Path

    @property
    def images(self) -> Path:
        return Path(self.settings.images)

    @property
    def batch(self) -> int:
        return self.settings.batch_size

    def loader(self, workers: int, **options) -> Loader:
        """Return a loader without an end."""
        images, masks = self.images, Path(self.settings.masks)
        return endless_loader(self.settings, images, masks, workers, device=self.device, **options)

    def whole(self, name: str, **changed: object) -> Rate:
        """Run `pretrain` with its settings changed so."""
        settings = self.settings.model_copy(update=changed)
        out = self.folder / name
        return whole_rate(settings, str(self.device), self.workers, 2 * self.seconds, out)


class Throughput:
    """Measures one row after the other; a figure that could not be had is None."""

    def __init__(self, subject: Subject, failures: Failures) -> None:
        self.subject = subject
        self.table = Table(("images from JPEG to gradient", "images/s", ""), failures)
        self.step: StepCost | None = None
        self.best: dict[str, float] = {}  # operations a second that the device can do
        self.one_worker: float | None = None
        self.whole: Rate | None = None

    def measure(self) -> None:
        """Print all rows, and what they say together."""
        self._ceiling()
        self._one_core()
        self._loaders()
        self._augmentation()
        self._wholes()
        self._plain()
        self._conclusions()

    def _ceiling(self) -> None:
        subject = self.subject
        images = len(list_images(subject.images))
        self.step = self.table.measure(
            "model on synthetic views: the ceiling",
            lambda: step_cost(subject.settings, images, subject.device, subject.seconds),
            lambda step: (_rate(subject.batch / step.seconds), _gigabytes(step.memory)),
        )
        if self.step is None:
            return
        flops, device = self.step.flops, subject.device
        dtype = torch.bfloat16 if in_bfloat16(subject.settings, device) else torch.float32
        kind = str(dtype).removeprefix("torch.")
        best = {f"a large product in {kind} here": lambda: product_flops(device, dtype)}
        if (published := published_flops(device)) is not None:
            best["the published peak in bfloat16, dense"] = lambda: published
        for name, measure in best.items():
            found = self.table.measure(
                f"its share of {name}",
                measure,
                lambda can: (f"{flops / self.step.seconds / can:.1%}", f"of {_tera(can)}"),
            )
            if found is not None:
                self.best[name] = found

    def _one_core(self) -> None:
        def measure() -> tuple[float, float]:
            loader = self.subject.loader(0)
            try:
                return decode_and_crop(self.subject.settings, loader, 200)
            finally:
                loader.close()

        found = self.table.measure(
            "one core: decode and crop", measure, lambda both: (_rate(1 / both[0]), "")
        )
        if found is not None and not math.isnan(found[1]):
            share = f"{found[1] / found[0]:.1%} of the above"
            self.table.row("one core: read a mask", _rate(1 / found[1]), share)

    def _loaders(self) -> None:
        last = self.subject.workers or 1
        counts = {n for n in (1, 2, 4, 8) if n <= self.subject.cores} | {last}
        found = {count: self._loader(count) for count in sorted(counts)}
        self.one_worker = found[1]
        pasting = found[last]

        def against(rate: float) -> tuple[str, str]:
            share = "" if pasting is None else f"{pasting / rate:.3f} with copy-paste"
            return _rate(rate), share

        self.table.measure(
            f"loader, {last} workers, nothing pasted",
            lambda: self._loader_rate(last, paste=False),
            against,
        )

    def _loader(self, count: int, name: str = "", **options) -> float | None:
        return self.table.measure(
            f"loader, {count} worker{'s' * (count != 1)}{name}",
            lambda: self._loader_rate(count, **options),
            lambda rate: (_rate(rate), f"{rate / max(1, count):.0f} a worker"),
        )

    def _loader_rate(self, count: int, **options) -> float:
        subject = self.subject
        loader = subject.loader(count, **options)
        return loader_rate(loader, count, subject.batch, subject.seconds, subject.device)

    def _augmentation(self) -> None:
        subject = self.subject

        def measure() -> float:
            batch = first_batch(subject.loader(0))
            return augment_seconds(subject.settings, batch, subject.device)

        self.table.measure(
            "augmentation on the device",
            measure,
            lambda seconds: (_rate(subject.batch / seconds), ""),
        )

    def _wholes(self) -> None:
        self.whole = self.table.measure(
            "whole, by `pretrain`",
            lambda: self.subject.whole("whole"),
            lambda rate: (
                _rate(rate.images_per_second),
                f"{self._of_ceiling(rate)}{rate.waiting:.1%} waiting",
            ),
        )
        if self.subject.device.type != "cuda":
            return  # on a CPU decoding there only moves the work to the main process
        self._loader(self.subject.workers, ", decode = device", decode_on=self.subject.device)
        self.table.measure(
            "whole, by `pretrain`, decode = device",
            lambda: self.subject.whole("whole-device", decode="device"),
            lambda rate: (
                _rate(rate.images_per_second),
                f"{self._of_ceiling(rate)}{rate.waiting:.1%} waiting",
            ),
        )

    def _of_ceiling(self, rate: Rate) -> str:
        if self.step is None:
            return ""
        share = rate.images_per_second * self.step.seconds / self.subject.batch
        return f"{share:.3f} of the ceiling, "

    def _plain(self) -> None:
        subject = self.subject

        def against(rate: float) -> tuple[str, str]:
            if self.whole is None:
                return _rate(rate), ""
            return _rate(rate), f"`pretrain`: {self.whole.images_per_second / rate:.2f} times"

        self.table.measure(
            "plain PyTorch script: no compile, no copy-paste",
            lambda: plain_rate(
                subject.settings,
                subject.images,
                subject.workers,
                subject.device,
                subject.seconds,
            ),
            against,
        )

    def _conclusions(self) -> None:
        """Print the whole's shares of what the device can do, and the cores it takes."""
        if self.step is None:
            return
        batch, flops = self.subject.batch, self.step.flops
        print(f"\nA step is {flops / batch / 1e9:.1f} GFLOP an image.")
        if self.whole is not None:
            for name, best in self.best.items():
                share = self.whole.images_per_second / batch * flops / best
                print(f"The whole is {share:.1%} of {name}.")
        if self.one_worker is not None:
            cores = batch / self.step.seconds / self.one_worker
            print(
                f"One core loads {self.one_worker:.0f} images/s, so this model takes {cores:.1f} "
                "cores beside what the step itself needs.",
                flush=True,
            )


def _rate(value: float) -> str:
    return f"{value:,.0f}"


def _gigabytes(value: float) -> str:
    return "" if math.isnan(value) else f"peak memory of the device {value / 1e9:.1f} GB"


def _tera(flops: float) -> str:
    return f"{flops / 1e12:.2f} TFLOP/s"
