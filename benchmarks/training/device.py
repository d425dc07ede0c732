"""The device that is measured: its clock, its memory, and what it can do at best."""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable

import torch

from data.device import pick_device, tune_cuda

# Dense products in bfloat16 by NVIDIA's data sheets, which print twice as much for H100 and H200,
# "with sparsity": H100 SXM and H200 SXM 1,979 TFLOP/s, A100 312. By the driver's exact names, as
# the same chips on other boards (H100 PCIe, H100 NVL, H200 NVL) and parts of them (MIG) do less.
_PUBLISHED = {
    "NVIDIA H100 80GB HBM3": 989e12,
    "NVIDIA H200": 989e12,
    "NVIDIA A100-SXM4-40GB": 312e12,
    "NVIDIA A100-SXM4-80GB": 312e12,
    "NVIDIA A100-PCIE-40GB": 312e12,
    "NVIDIA A100 80GB PCIe": 312e12,
}
_TOGETHER = 5  # calls between two looks at the clock: training does not wait for each step either


def current_device(name: str) -> torch.device:
    """Return the device of that name, with a GPU's number, and make it the current one."""
    device = pick_device(name)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    return device


def device_name(device: torch.device) -> str:
    """Return what the driver calls a GPU, or the processor's kind."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()


def processes_at_most(wanted: int, name: str, device: torch.device) -> int:
    """Return how many processes torchrun can start: one a GPU, and one where a GPU was named."""
    if device.type != "cuda":
        return wanted
    return min(wanted, 1 if ":" in name else torch.cuda.device_count())


def wait_for(device: torch.device) -> None:
    """Wait for what was launched on this very device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def median_seconds(
    call: Callable[[], object], device: torch.device, seconds: float = 0.0, repeat: int = 5
) -> float:
    """Return the median seconds of a call, the device's work included.

    Two rounds warm up; then there are `repeat` rounds at least, and so many that `seconds` pass. A
    round is a call, on a GPU five.
    """
    calls = _TOGETHER if device.type == "cuda" else 1
    rounds: list[float] = []
    first = None
    while len(rounds) < repeat + 2 or time.perf_counter() - first < seconds:
        if len(rounds) == 2:
            first = time.perf_counter()
        started = time.perf_counter()
        for _ in range(calls):
            call()
        wait_for(device)
        rounds.append((time.perf_counter() - started) / calls)
    return statistics.median(rounds[2:])


def product_flops(device: torch.device, dtype: torch.dtype) -> float:
    """Return operations a second of a large product: what the device can do at best."""
    tune_cuda()  # float32 as `pretrain` has it, by TF32
    side = 8192 if device.type == "cuda" else 2048
    a = torch.randn(side, side, device=device, dtype=dtype)
    b = torch.randn(side, side, device=device, dtype=dtype)
    return 2 * side**3 / median_seconds(lambda: a @ b, device, repeat=10)


def published_flops(device: torch.device) -> float | None:
    """Return a GPU's dense operations a second in bfloat16 as published, None if not known here."""
    return _PUBLISHED.get(device_name(device)) if device.type == "cuda" else None


class PeakMemory:
    """Bytes of a device's memory from now on; NaN where the device is not a GPU.

    Attributes
    ----------
    before : what lies there now.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.before = float("nan")
        if device.type == "cuda":
            torch.cuda.synchronize(device)
            self.before = float(torch.cuda.memory_allocated(device))
            torch.cuda.reset_peak_memory_stats(device)

    def read(self) -> float:
        """Return the most that was allocated since."""
        if self._device.type != "cuda":
            return float("nan")
        torch.cuda.synchronize(self._device)
        return float(torch.cuda.max_memory_allocated(self._device))
