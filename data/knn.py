"""Weighted k-nearest-neighbour classification, exact, on the device, in bounded memory.

Wu, Xiong, Yu, Lin: Unsupervised Feature Learning via Non-Parametric Instance Discrimination, CVPR
2018, section 3.4: the k training images of largest cosine similarity s vote for their classes with
weight exp(s / T).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch.nn import functional as F

TEST_CHUNK = 512
BANK_CHUNK = 65536  # similarities in memory: TEST_CHUNK * BANK_CHUNK * 4 bytes = 128 MB


class Neighbours(NamedTuple):
    """The nearest training images of M test images, most similar first."""

    similarity: torch.Tensor  # (M, k) float32, cosine
    index: torch.Tensor  # (M, k) int64, rows of the training features


def nearest(
    train_features: torch.Tensor,
    test_features: torch.Tensor,
    k: int,
    *,
    leave_one_out: bool = False,
    device: torch.device | str | None = None,
    test_chunk: int = TEST_CHUNK,
    bank_chunk: int = BANK_CHUNK,
) -> Neighbours:
    """Find the k training features of largest cosine similarity to each test feature, exactly.

    The training features may stay in host memory: they pass through the device `bank_chunk` rows at
    a time, and only the k best so far are kept. Beyond the inputs and the result the memory is
    `test_chunk * bank_chunk * 4` bytes, whatever the number of features.

    train_features, test_features : (N, D) and (M, D) floating point; need not be normalised
    k : at most N, or N - 1 with `leave_one_out`
    leave_one_out : test row i is training row i, and is not its own neighbour
    device : where to compute; None takes the test features' device
    """
    device = torch.device(device) if device is not None else test_features.device
    available = len(train_features) - int(leave_one_out)
    if not 1 <= k <= available:
        raise ValueError(f"k is {k}, and there are {available} training images to choose from")
    similarity = torch.full((len(test_features), k), -torch.inf, device=device)
    index = torch.zeros((len(test_features), k), dtype=torch.int64, device=device)
    for bank, first in _chunks(train_features, bank_chunk, device):
        for queries, start in _chunks(test_features, test_chunk, device):
            block = queries @ bank.T  # (m, n)
            if leave_one_out:
                _hide_self(block, start, first)
            here = slice(start, start + len(queries))
            best, rows = block.topk(min(k, block.shape[1]), dim=1)
            best = torch.cat([similarity[here], best], dim=1)
            rows = torch.cat([index[here], rows + first], dim=1)
            similarity[here], order = best.topk(k, dim=1)
            index[here] = rows.gather(1, order)
    return Neighbours(similarity, index)


def _chunks(
    features: torch.Tensor, size: int, device: torch.device
) -> Iterator[tuple[torch.Tensor, int]]:
    """Yield (normalised rows on the device, number of the first)."""
    for first in range(0, len(features), size):
        rows = features[first : first + size].to(device, torch.float32, non_blocking=True)
        yield F.normalize(rows, dim=1), first


def _hide_self(block: torch.Tensor, start: int, first: int) -> None:
    """Set the similarity of test row i and training row i to -inf, where the block holds it."""
    rows = torch.arange(len(block), device=block.device)
    columns = rows + start - first
    inside = (columns >= 0) & (columns < block.shape[1])
    block[rows[inside], columns[inside]] = -torch.inf


def votes(
    neighbours: Neighbours, train_labels: torch.Tensor, temperature: float, num_classes: int
) -> torch.Tensor:
    """Sum exp(similarity / temperature) of the neighbours by class: (M, num_classes) float32.

    The largest weight of each row is 1: exp((s - s_max) / T) ranks the classes alike, and does not
    overflow at small temperatures.
    """
    similarity, index = neighbours
    labels = train_labels.to(index.device)[index]
    weights = ((similarity - similarity[:, :1]) / temperature).exp()
    return weights.new_zeros(len(index), num_classes).scatter_add_(1, labels, weights)


def weighted_knn(
    train_features: torch.Tensor,
    train_labels: torch.Tensor,
    test_features: torch.Tensor,
    k: int = 200,
    temperature: float = 0.07,
    num_classes: int | None = None,
    **options: Any,
) -> torch.Tensor:
    """Class scores of test features by weighted k-nearest neighbours; `argmax` is the prediction.

    train_labels : (N,) int64 in [0, num_classes); None takes the largest label + 1
    k, temperature : InstDisc's defaults are 200 and .07
    train_features, test_features, options : as of `nearest`

    Returns (M, num_classes) float32 on the device, >= 0; rows are comparable up to a factor.

    >>> bank = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    >>> weighted_knn(bank, torch.tensor([0, 1]), torch.tensor([[0.9, 0.1]]), k=2).argmax(1)
    tensor([0])
    """
    if num_classes is None:
        num_classes = int(train_labels.max()) + 1
    neighbours = nearest(train_features, test_features, k, **options)
    return votes(neighbours, train_labels, temperature, num_classes)
