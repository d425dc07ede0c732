"""The memory bank of instance discrimination: one vector for each image."""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional

from pretrain.parts.distributed import all_gather


class MemoryBank(nn.Module):
    """N vectors of d dimensions, float32, one for each image (Wu et al. 2018, 3.2).

    They start uniform on [-s, s], s = 1 / sqrt(d / 3), so with unit length on average but not
    normalised. After an image was used its vector becomes
    v <- normalise(momentum v + (1 - momentum) f).

    images : N.
    dim : d.
    momentum : share of the old vector, .5 as published.
    seed : of the first vectors.
    """

    vectors: torch.Tensor  # (N, d) float32

    def __init__(self, images: int, dim: int = 128, momentum: float = 0.5, seed: int = 0) -> None:
        super().__init__()
        self.momentum = momentum
        generator = torch.Generator().manual_seed(seed)
        s = 1 / math.sqrt(dim / 3)
        vectors = torch.rand(images, dim, generator=generator).mul_(2 * s).sub_(s)
        self.register_buffer("vectors", vectors)

    def __len__(self) -> int:
        return len(self.vectors)

    @torch.no_grad()
    def update(self, index: torch.Tensor, features: torch.Tensor) -> None:
        """Move the vectors of `index` (B,) towards `features` (B, d).

        With several processes every one applies all processes' updates, so the banks stay equal.
        """
        index, features = all_gather(index), all_gather(features.float())
        mixed = self.vectors[index] * self.momentum + features * (1 - self.momentum)
        self.vectors[index] = functional.normalize(mixed, dim=1)
