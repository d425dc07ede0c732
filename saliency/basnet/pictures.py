"""Pictures of a training run: predictions beside the truth, and the curves."""

from pathlib import Path

import cv2
import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from saliency.basnet.dataset import Pair, read_pair
from saliency.basnet.predict import Predictor, predict

_TILE = 160  # pixels
_GAP = 4


def plot_predictions(predictor: Predictor, pairs: list[Pair], size: int, path: Path) -> None:
    """Save photograph, ground truth and prediction of some pairs, a column each, as a PNG.

    Parameters
    ----------
    predictor : Predictor
    pairs : list of Pair
    size : int
        Side of the square that the network is given.
    path : Path
        Where the PNG goes; its folder is made.
    """
    images, truths = zip(*(read_pair(pair) for pair in pairs), strict=True)
    maps = predict(images, predictor, size)
    columns = []
    for image, truth, saliency in zip(images, truths, maps, strict=True):
        grays = [np.repeat(g[..., None], 3, 2) for g in (truth, np.rint(255 * saliency))]
        tiles = [_tile(picture.astype(np.uint8)) for picture in (image, *grays)]
        columns.append(np.concatenate(tiles))
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet = np.concatenate(columns, axis=1)
    cv2.imwrite(str(path), cv2.cvtColor(sheet, cv2.COLOR_RGB2BGR))


def _tile(picture: np.ndarray) -> np.ndarray:
    """Fit a picture into a white square with a margin, keeping its aspect."""
    height, width = picture.shape[:2]
    scale = (_TILE - _GAP) / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    small = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
    tile = np.full((_TILE, _TILE, 3), 255, np.uint8)
    top, left = (_TILE - small.shape[0]) // 2, (_TILE - small.shape[1]) // 2
    tile[top : top + small.shape[0], left : left + small.shape[1]] = small
    return tile


def plot_history(history: list[dict], path: Path) -> None:
    """Save the training loss and the validation scores over the epochs as a PNG.

    Parameters
    ----------
    history : list of dict
        One per epoch: `epoch`, `loss` and, where it was validated, `max_f` and `mae`.
    path : Path
    """
    with matplotlib.rc_context({"axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=(8, 3), layout="constrained")
        losses, scores = figure.subplots(1, 2)
        losses.plot([row["epoch"] for row in history], [row["loss"] for row in history])
        losses.set(xlabel="epoch", ylabel="training loss, sum of 8 outputs")
        validated = [row for row in history if row.get("max_f") is not None]
        epochs = [row["epoch"] for row in validated]
        for name, label in (("max_f", "max F"), ("mae", "MAE")):
            scores.plot(epochs, [row[name] for row in validated], marker=".", label=label)
        scores.set(xlabel="epoch", ylim=(0, 1))
        for axes in (losses, scores):
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        if validated:
            scores.legend(frameon=False)
        figure.savefig(path, dpi=120)
