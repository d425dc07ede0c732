"""Median seconds of calls that take turns, so that what slows the machine slows all of them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping

import torch

from benchmarks.training.device import wait_for

CPU = torch.device("cpu")


def in_turns(
    rows: Mapping[str, Callable[[int], object]], turns: int, device: torch.device = CPU
) -> dict[str, float]:
    """Return the median seconds a call; a turn calls each row once, with its number.

    On a CPU of processor time, which others do not lengthen. A turn before the first warms up.
    """
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    seconds: dict[str, list[float]] = {name: [] for name in rows}
    for turn in range(turns + 1):
        for name, row in rows.items():
            wait_for(device)
            began = clock()
            row(turn)
            wait_for(device)
            if turn:
                seconds[name].append(clock() - began)
    return {name: statistics.median(values) for name, values in seconds.items()}
