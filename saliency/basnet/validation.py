"""Max F and MAE of a network on photographs with ground truth, at the photographs' own size."""

from collections.abc import Iterator

import numpy as np
import torch
from torch.utils.data import Dataset

from data.errors import UserError
from data.loading import Loader, as_tensor
from data.masks.precision_recall import Curve, normalise, precision_recall
from saliency.basnet.dataset import Pair, read_pair
from saliency.basnet.predict import Predictor
from saliency.basnet.preprocess import preprocess, resize_map


class ValidationPairs(Dataset):
    """Network input, float32 (3, S, S), and ground truth, bool (h, w), of every pair."""

    def __init__(self, pairs: list[Pair], size: int) -> None:
        self.pairs = pairs
        self.size = size

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        image, mask = read_pair(self.pairs[index])
        truth = mask > 128
        if not truth.any():
            raise UserError(
                f"the ground truth {self.pairs[index].mask} is empty, so its recall is undefined; "
                "leave it out of the validation set."
            )
        return preprocess(image, self.size), truth


def validate(
    predictor: Predictor, pairs: list[Pair], size: int, workers: int = 0
) -> tuple[Curve, float]:
    """Return a network's averaged precision-recall curve and its mean absolute error.

    They are the benchmark's (`data.masks.precision_recall`).

    pairs : each with a ground truth that is not empty.
    size : side of the square that the network is given.
    workers : processes that decode and resize; 0 for none.
    """
    precision, recall, error = np.zeros(256), np.zeros(256), 0.0
    for saliency, truth in _maps(predictor, pairs, size, workers):
        levels = normalise(np.rint(255 * resize_map(saliency, truth.shape)).astype(np.uint8))
        p, r = precision_recall(levels, truth)
        precision += p
        recall += r
        error += np.abs(levels / 255 - truth).mean()
    n = len(pairs)
    return Curve(precision / n, recall / n), float(error / n)


def _maps(
    predictor: Predictor, pairs: list[Pair], size: int, workers: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    rows = range(len(pairs))
    loader = Loader(
        ValidationPairs(pairs, size),
        [rows[start : start + predictor.batch_size] for start in rows[:: predictor.batch_size]],
        workers,
        collate=_collate,
        pin_memory=predictor.device.type == "cuda",
    )
    for inputs, truths in loader:
        yield from zip(predictor(inputs), truths, strict=True)


def _collate(items: list) -> tuple[torch.Tensor, list[np.ndarray]]:
    inputs, truths = zip(*items, strict=True)
    return as_tensor(np.stack(inputs)), list(truths)
