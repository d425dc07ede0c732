"""The learning rate of every step, in all trainings."""

from __future__ import annotations

import math
from collections.abc import Sequence


def learning_rate(
    step: int,
    steps_per_epoch: int,
    *,
    base: float,
    epochs: int,
    schedule: str,
    milestones: Sequence[float] = (0.6, 0.8),
    decay: float = 0.1,
    warmup_epochs: float = 0.0,
) -> float:
    """Return the learning rate of step 0, 1, ... of a run.

    It changes from epoch to epoch, as in the authors' codes (InstDisc, MoCo), and within the
    warm-up from step to step; with one step an epoch, from step to step all along.

    base : the rate after warm-up and before any decay.
    schedule : "step": times `decay` at each milestone. "cosine": times (1 + cos(pi epoch /
        epochs)) / 2.
    milestones : below 1 shares of the run (.6 of 200 epochs is epoch 120), else epochs.
    warmup_epochs : the rate rises linearly over so many epochs.
    """
    epoch = step // steps_per_epoch
    if schedule == "cosine":
        rate = base * (1 + math.cos(math.pi * epoch / epochs)) / 2
    else:
        starts = [m * epochs if m < 1 else m for m in milestones]
        rate = base * decay ** sum(epoch >= round(start) for start in starts)
    warmup_steps = warmup_epochs * steps_per_epoch
    return rate * (step + 1) / warmup_steps if step + 1 < warmup_steps else rate
