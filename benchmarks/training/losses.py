"""The losses over a large bank, each alone: time and memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch

from benchmarks.training.device import PeakMemory, median_seconds
from data.device import tune_cuda
from pretrain.parts import losses
from pretrain.parts.negatives import OwnDraws, SharedDraws, WholeMemory, stream_key


class LossCost(NamedTuple):
    """What a loss and its gradient take."""

    seconds: float
    memory: float  # bytes at most beyond what lay on the device before; NaN on a CPU


def loss_cost(call: Callable[[], None], device: torch.device) -> LossCost:
    """Measure one of `loss_rows`."""
    call()  # what libraries keep for themselves from the first call on is not the loss's
    memory = PeakMemory(device)
    call()
    beyond = memory.read() - memory.before
    return LossCost(median_seconds(call, device), beyond)


def loss_rows(
    batch: int, dim: int, bank: int, device: torch.device
) -> dict[str, Callable[[], None]]:
    """Return by name the losses over a bank of so many vectors, each with its gradient."""
    tune_cuda()
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
    return calls
