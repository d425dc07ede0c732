"""The losses of single steps, and the time between them, on their way to metrics.jsonl."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import torch

from pretrain.metrics import Metrics
from pretrain.parts.distributed import mean_over_processes


class _Step(NamedTuple):
    step: int
    epoch: int
    loss: torch.Tensor  # scalar, on the device
    lr: float


class LossNotFinite(Exception):
    """The loss of a step is infinite or not a number."""

    def __init__(self, step: int, epoch: int, loss: float) -> None:
        super().__init__(step, epoch, loss)
        self.step, self.epoch, self.loss = step, epoch, loss


class StepLog:
    """Holds steps back until `flush`, because reading a loss means waiting for the device.

    Parameters
    ----------
    metrics : where lines go; None in all processes but the first.
    batch_size : images a step, over all processes.
    """

    def __init__(self, metrics: Metrics | None, batch_size: int) -> None:
        self._metrics, self._batch_size = metrics, batch_size
        self._steps: list[_Step] = []
        self._waits: list[float] = []  # seconds that each of them waited for its batch
        self.begin_epoch()

    def begin_epoch(self) -> None:
        """Start the clock, and the sums that an epoch's line on the terminal is made of."""
        self._clock = self._began = time.monotonic()
        self._count = 0
        self._loss_sum = self._waited = 0.0

    def timed(self, loader: Iterable[dict]) -> Iterator[dict]:
        """Yield the loader's batches, and note how long each was waited for."""
        batches = iter(loader)
        while True:
            began = time.monotonic()
            batch = next(batches, None)
            if batch is None:
                return
            self._waits.append(time.monotonic() - began)
            yield batch

    def add(self, step: int, epoch: int, loss: torch.Tensor, lr: float) -> None:
        """Note a step that is done: `step` is how many are."""
        self._steps.append(_Step(step, epoch, loss, lr))

    def flush(self) -> None:
        """Write what was held back, each step with the rate of them all. Every process must.

        Raises LossNotFinite.
        """
        losses = torch.stack([step.loss for step in self._steps])
        losses = mean_over_processes(losses).tolist()  # the only wait for the device
        now = time.monotonic()
        seconds = max(now - self._clock, 1e-9)
        speed = {
            "images_per_second": round(len(losses) * self._batch_size / seconds, 1),
            "loader_wait": round(sum(self._waits) / seconds, 3),
        }
        self._clock = now
        for (step, epoch, _, lr), loss in zip(self._steps, losses, strict=True):
            if not math.isfinite(loss):
                raise LossNotFinite(step, epoch, loss)
            if self._metrics is not None:
                line = {"step": step, "epoch": epoch, "loss": loss, "lr": lr}
                self._metrics.write(line | speed)
        if self._metrics is not None:
            self._metrics.flush()
        self._loss_sum += sum(losses)
        self._count += len(losses)
        self._waited += sum(self._waits)
        self._steps.clear()
        self._waits.clear()

    def leave_out(self, seconds: float) -> None:
        """Leave time that was not spent on training (a checkpoint's, say) out of the rates."""
        self._clock += seconds
        self._began += seconds

    @property
    def mean_loss(self) -> float:
        """Of the epoch's steps that were flushed."""
        return self._loss_sum / self._count

    def epoch_speed(self) -> tuple[float, float]:
        """Return the epoch's seconds a step so far, and the share of them spent on waiting."""
        seconds = time.monotonic() - self._began
        return seconds / self._count, self._waited / seconds
