"""How far a figure may be off: intervals over test images, means over checkpoints of a recipe.

Two kinds of chance, which are not the same: other test images would give another figure of the same
network (the intervals), and another seed of the training another network (the standard errors).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

RESAMPLES = 1000
LEVEL = (2.5, 97.5)  # percentiles of the resamples
Z = 1.959964  # of a normal distribution, for 95 %


class Estimate(NamedTuple):
    """A figure and its 95 % interval."""

    value: float
    low: float
    high: float

    def named(self, name: str) -> dict[str, Any]:
        """It as a result has it, under this name: the figure, and its interval beside it."""
        return {name: self.value, f"{name}_interval": [self.low, self.high]}


class Spread(NamedTuple):
    """A mean over runs and their standard deviation."""

    value: float
    deviation: float


def accuracy(share: float, count: int) -> Estimate:
    """The share of `count` images that are right, with Wilson's interval (1927)."""
    centre = (share + Z**2 / (2 * count)) / (1 + Z**2 / count)
    half = Z / (1 + Z**2 / count) * math.sqrt(share * (1 - share) / count + (Z / (2 * count)) ** 2)
    return Estimate(share, max(0.0, centre - half), min(1.0, centre + half))


def mean(values: np.ndarray, seed: int = 0) -> Estimate:
    """The mean of one value an image, (N,), with a percentile bootstrap over the images."""
    values = np.asarray(values, np.float64)
    means = np.concatenate([w @ values / len(values) for w in weights(len(values), seed=seed)])
    return Estimate(float(values.mean()), *spread(means))


def weights(count: int, seed: int | Sequence[int] = 0) -> Iterator[np.ndarray]:
    """How often each of `count` is drawn, in blocks (b, count) of all `RESAMPLES` resamples."""
    rng = np.random.default_rng(seed)
    block = max(1, min(100, 2_000_000 // count))
    for start in range(0, RESAMPLES, block):
        size = min(block, RESAMPLES - start)
        yield rng.multinomial(count, np.full(count, 1 / count), size).astype(np.float64)


def spread(resampled: np.ndarray) -> tuple[float, float]:
    """The 95 % interval of resampled figures; those that are not defined are left out."""
    low, high = np.nanpercentile(resampled, LEVEL)
    return float(low), float(high)


def over_seeds(values: Sequence[float]) -> tuple[float, float]:
    """Mean and standard error over independent trainings: s / sqrt(n), s with n - 1."""
    return float(np.mean(values)), float(np.std(values, ddof=1) / math.sqrt(len(values)))
