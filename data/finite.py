"""Tell weights that a training has ruined."""

from __future__ import annotations

from collections.abc import Iterable

import torch


@torch.no_grad()
def all_finite(tensors: Iterable[torch.Tensor]) -> bool:
    """Return whether every value of some tensors of one device is finite; waits for it once."""
    sums = [tensor.sum(dtype=torch.float64)[None] for tensor in tensors]
    return bool(torch.cat(sums).isfinite().all())
