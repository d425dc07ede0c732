"""Pictures of a training run: predictions beside the truth, and the curves."""

from pathlib import Path

import numpy as np
from matplotlib.ticker import MaxNLocator

from data.gallery import Cell, Gallery, Row
from data.gallery.plots import plot
from saliency.basnet.dataset import Pair, read_image, read_truth
from saliency.basnet.predict import Predictor, predict

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
