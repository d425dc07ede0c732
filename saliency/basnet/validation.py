"""Max F and MAE of a network on photographs with ground truth, at their own size; and pictures."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from matplotlib.ticker import MaxNLocator
from torch.utils.data import Dataset

from data.errors import UserError
from data.gallery import Cell, Gallery, Row
from data.gallery.plots import plot
from data.loading import Loader, as_tensor
from data.masks.precision_recall import Curve, normalise, precision_recall
from saliency.basnet.dataset import Pair, read_image, read_truth
from saliency.basnet.predict import Predictor, predict, preprocess, resize_map


class ValidationPairs(Dataset):
    """Network input, float32 (3, S, S), and ground truth, bool (h, w), of every pair."""

    def __init__(self, pairs: list[Pair], size: int) -> None:
        self.pairs = pairs
        self.size = size

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        image, truth = read_image(self.pairs[index]), read_truth(self.pairs[index]) > 128
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


_TILE = 160  # pixels


def plot_predictions(predictor: Predictor, pairs: list[Pair], size: int, path: Path) -> None:
    """Save photograph, ground truth and prediction of some pairs, a row each, as a PNG.

    pairs : all with a ground truth, or all without; then there are two columns.
    size : side of the square that the network is given.
    """
    images = [read_image(pair) for pair in pairs]
    rows = []
    for pair, image, saliency in zip(pairs, images, predict(images, predictor, size), strict=True):
        truth = [Cell(read_truth(pair))] if pair.mask else []
        prediction = Cell(np.rint(255 * saliency).astype(np.uint8))
        rows.append(Row(pair.name, [Cell(image), *truth, prediction]))
    columns = ["image", *(["ground truth"] if pairs[0].mask else []), "prediction"]
    Gallery("Predictions", [], columns, rows).save_png(path, side=_TILE)


def plot_history(history: list[dict], path: Path) -> None:
    """Save the training loss and the validation scores over the epochs as a PNG.

    history : of each epoch `epoch`, `loss` and, where it was validated, `max_f` and `mae`.
    """
    with plot(path, 8, 3, columns=2, dpi=120) as (losses, scores):
        losses.plot([row["epoch"] for row in history], [row["loss"] for row in history])
        losses.set(xlabel="epoch", ylabel="training loss, sum of 8 outputs")
        validated = [row for row in history if row.get("max_f") is not None]
        epochs = [row["epoch"] for row in validated]
        for name, label in (("max_f", "max F"), ("mae", "MAE")):
            scores.plot(epochs, [row[name] for row in validated], marker=".", label=label)
        scores.set(xlabel="epoch", ylim=(0, 1))
        for axes in (losses, scores):
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
            axes.spines[["top", "right"]].set_visible(False)
        if validated:
            scores.legend(frameon=False)
