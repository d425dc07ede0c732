"""One process against several by torchrun, each with its share of the cores."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from benchmarks.training.whole import Rate, whole_rate
from pretrain.settings import Settings


def processes_rate(
    settings: Settings,
    device: torch.device,
    count: int,
    workers: int,
    seconds: float,
    folder: Path,
) -> Rate:
    """Return the rate of so many processes together.

    Each takes the settings' batch, and has one thread (torchrun's default) and its share of the
    loading processes.

    workers : all processes' loading processes together.
    """
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count), "-m"]
    return whole_rate(
        settings.model_copy(update={"batch_size": settings.batch_size * count}),
        device.type,  # a GPU each
        max(1, workers // count),
        seconds,
        folder / f"processes-{count}",
        start=(sys.executable, *torchrun),
        environment={"OMP_NUM_THREADS": "1"},
    )
