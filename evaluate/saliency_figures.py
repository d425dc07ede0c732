"""Pictures of saliency scores: precision-recall curves, and examples beside their ground truth."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from matplotlib.figure import Figure

from data.errors import UserError
from data.images.decode import UnreadableImage, decode, key_path
from data.keys import Keys
from data.masks.precision_recall import BETA2
from evaluate.captions import add_legend, in_lines
from evaluate.masks import Masks, stem
from evaluate.saliency_scores import Scores, load_pair

TILE = 160  # pixels of an example's longer side
COLUMN, MARGIN, LINE = 1.9, 0.1, 0.15  # inches: an example's width, between two, a line of text


def plot_curves(scores: list[Scores], path: Path) -> None:
    """Draw precision against recall, and F against the threshold, a line for each set of masks."""
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    for one in scores:
        curve = one.curve
        f = curve.f_measure()
        best = int(f.argmax())
        label = f"{one.label}: max F {f[best]:.4f}"
        (line,) = left.plot(curve.recall, curve.precision, label=label, linewidth=1.5)
        left.plot(curve.recall[best], curve.precision[best], "o", color=line.get_color())
        right.plot(f, linewidth=1.5, color=line.get_color())
        right.plot(best, f[best], "o", color=line.get_color())
    left.set(xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1))
    left.set_title("Precision and recall; dots at max F", fontsize=10)
    right.set(xlabel="threshold", ylabel=f"F (β² = {BETA2})", xlim=(0, 255), ylim=(0, 1))
    right.set_title("F against the threshold", fontsize=10)
    for axes in (left, right):
        axes.grid(alpha=0.3)
    add_legend(left, 9, loc="lower left")
    figure.savefig(path, dpi=150, format="png")


def plot_examples(
    images: Path,
    photographs: Keys,
    truths: Masks,
    sets: list[tuple[Scores, Masks]],
    path: Path,
    rows: int,
    resize: bool,
) -> None:
    """Draw photographs with their ground truth and each set's mask.

    The images run from the smallest to the largest mean absolute error of the first set, in even
    steps of rank, so that the picture shows the method's best, usual and worst.

    photographs : those below `images`.
    """
    shared = set.intersection(*(set(one.names) for one, _ in sets))
    by_stem = {stem(key): key for key in photographs}
    first = sets[0][0]
    errors = {name: s.mae for name, s in zip(first.names, first.per_image, strict=True)}
    ranked = sorted((n for n in shared if n in by_stem), key=lambda n: (errors[n], n))
    if not ranked:
        raise UserError(f"--images {images} holds none of the images that were scored.")
    places = np.linspace(0, len(ranked) - 1, min(rows, len(ranked))).round().astype(int)
    chosen = [ranked[place] for place in places]
    columns = ["image", "ground truth", *(one.label for one, _ in sets)]
    titles = [in_lines(column, COLUMN - MARGIN, 9) for column in columns]
    captions = [in_lines(Path(name).name, COLUMN - MARGIN, 7) for name in chosen]
    more = max(title.count("\n") for title in titles) + "".join(captions).count("\n")
    figure = Figure(
        figsize=(COLUMN * len(columns), 1.5 * len(chosen) + 0.3 + LINE * more), layout="constrained"
    )
    grid = figure.subplots(len(chosen), len(columns), squeeze=False)
    for line, name, caption in zip(grid, chosen, captions, strict=True):
        tiles = _tiles(images, by_stem[name], name, truths, sets, resize)
        for axes, picture in zip(line, tiles, strict=True):
            axes.imshow(picture, cmap="gray", vmin=0, vmax=255)
        for axes, (one, _) in zip(line[2:], sets, strict=True):
            score = one.per_image[one.names.index(name)]
            axes.set_xlabel(f"MAE {score.mae:.3f}", fontsize=7, labelpad=2)
        line[0].set_xlabel(caption, fontsize=7, labelpad=2, parse_math=False)
    for axes in grid.flat:
        axes.set(xticks=[], yticks=[])
    for axes, title in zip(grid[0], titles, strict=True):
        axes.set_title(title, fontsize=9, parse_math=False)
    figure.savefig(path, dpi=150, format="png")


def _tiles(images: Path, key: str, name: str, truths: Masks, sets, resize: bool):
    try:
        yield _small(decode(key_path(images, key)).image)
    except UnreadableImage as reason:
        raise UserError(f"--images: '{key}' cannot be read: {reason}.") from None
    for number, (_, masks) in enumerate(sets):
        mask, truth = load_pair(masks, truths, name, resize)
        if number == 0:
            yield _small(truth.astype(np.uint8) * 255)
        yield _small(mask)


def _small(picture: np.ndarray) -> np.ndarray:
    scale = TILE / max(picture.shape[:2])
    size = (max(1, round(picture.shape[1] * scale)), max(1, round(picture.shape[0] * scale)))
    return cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
