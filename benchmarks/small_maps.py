"""`python -m benchmarks.small_maps`: a network's training step with and without cropped kernels.

Forward and backward on random images; both take turns, on a CPU by processor time, and the ratio is
of medians over the rounds.
"""

from __future__ import annotations

from collections.abc import Callable

import click
import torch
from torch import nn
from torchvision import models

from benchmarks.in_turns import in_turns
from benchmarks.training.device import current_device
from pretrain.parts.small_maps import crop_kernels


def measure(
    arch: str, size: int, batch: int, rounds: int, device: torch.device
) -> tuple[float, float]:
    """Return the seconds of a step of torchvision's network, and with cropped kernels."""
    plain, cropped = (getattr(models, arch)(weights=None).to(device) for _ in range(2))
    crop_kernels(cropped)
    images = torch.randn(batch, 3, size, size, device=device)

    def step(network: nn.Module) -> Callable[[int], None]:
        def call(turn: int) -> None:
            network(images).square().mean().backward()
            network.zero_grad()

        return call

    taken = in_turns({"plain": step(plain), "cropped": step(cropped)}, rounds, device)
    return taken["plain"], taken["cropped"]


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--batch", default=64, show_default=True)
@click.option("--rounds", default=7, show_default=True)
@click.option("--device", "name", default="cpu", show_default=True)
def main(batch: int, rounds: int, name: str) -> None:
    """Print the table of docs/performance.md."""
    device = current_device(name)
    if device.type == "cpu":
        torch.set_num_threads(1)
    print("| network | pixels | ms a step | with cropped kernels | ratio |\n|---|---|---|---|---|")
    for arch, size in (("resnet18", 32), ("resnet50", 32), ("resnet18", 64)):
        before, after = measure(arch, size, batch, rounds, device)
        row = f"| {arch} | {size} | {1e3 * before:.0f} | {1e3 * after:.0f} | {before / after:.2f} |"
        print(row, flush=True)


if __name__ == "__main__":
    main()
