"""Top-k accuracy."""

import torch


def top_k(scores: torch.Tensor, labels: torch.Tensor, k: int) -> float | None:
    """Share of rows whose label is among the k largest scores; None where k classes say nothing.

    scores: (N, C); labels: (N,) int64. With C <= k every answer would be right.
    """
    if scores.shape[1] <= k and k > 1:
        return None
    best = scores.topk(k, dim=1).indices
    return float((best == labels.to(best.device)[:, None]).any(1).double().mean())
