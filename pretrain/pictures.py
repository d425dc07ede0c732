"""The pictures of a run: what the model really sees, and its loss beside its kNN accuracy."""

from __future__ import annotations

import math
import os
from pathlib import Path

import cv2
import numpy as np
import torch

from data.backgrounds.partner import tight_box
from data.gallery import Cell, Gallery, Row
from data.gallery.plots import plot
from data.gallery.rows import fit
from data.images.decode import UnreadableImage, decode
from data.images.listing import key_path
from data.keys import Keys
from data.metrics import read_metrics
from pretrain.views.augment import DeviceAugment
from pretrain.views.draws import COLUMN

SIDE = 160  # pixels of a cell of views.png
_BOX = (255, 140, 0)  # colour of a crop's border


def views_gallery(
    batch: dict[str, torch.Tensor],
    augment: DeviceAugment,
    images: str | os.PathLike,
    keys: Keys,
    count: int = 8,
) -> Gallery:
    """Return a batch's first `count` images as rows of a gallery.

    A row is an image: the whole photograph with the boxes of its crops; then of each view the crop,
    its mask, the crop on its new background, where the batch has it the true saliency with the
    object's box, and the final view before normalisation. A negative on the first view's background
    comes last.

    batch : from the loader, on `augment`'s device.
    images, keys : the image folder and its images; those that cannot be read again stay blank.
    """
    part = {name: value[:count] for name, value in batch.items() if isinstance(value, torch.Tensor)}
    stages = {name: value.cpu() for name, value in augment.preview(part).items()}
    shown = [name for name in ("image", "mask", "pasted", "saliency", "view") if name in stages]
    if "mask" not in stages:
        shown.remove("pasted")
    parameters = part["parameters"].cpu()
    views = parameters.shape[1]
    columns = ["image"]
    for view in range(views):
        number = f" {view + 1}" if views > 1 else ""
        number = " of the negative" if view >= augment.recipe.views else number
        columns += [("crop" if stage == "image" else stage) + number for stage in shown]
    rows = []
    for row, index in enumerate(part["index"].tolist()):
        cells = [_photograph(images, keys[index], parameters[row, : augment.recipe.views])]
        for view in range(views):
            for stage in shown:
                note = _note(stage, parameters[row, view], "background" in part)
                picture = picture_of(stages[stage][row, view])
                cells.append(Cell(_boxed(picture) if stage == "saliency" else picture, note))
        rows.append(Row(keys[index], cells))
    return Gallery("What the network sees", [], columns, rows)


def _note(stage: str, values: torch.Tensor, has_backgrounds: bool) -> str:
    """Return what is said below a cell: the drawn parameters that made it."""

    def value(name: str) -> float:
        return float(values[COLUMN[name]])

    if stage == "image":
        return f"{value('box_height'):.0f}x{value('box_width'):.0f}"
    if stage == "mask":
        return "" if value("paste") else "not pasted"
    if stage == "pasted":
        if not value("paste"):
            return "original"
        return "" if has_backgrounds else f"gray {value('level'):.0f}"
    if stage == "saliency":
        return ""
    done = [name for name in ("gray", "jitter", "flip") if value(name)]
    done += [f"blur {value('blur'):.1f}"] * (value("blur") > 0)
    return " ".join(done)


def _photograph(images: str | os.PathLike, key: str, parameters: torch.Tensor) -> Cell:
    """Return the whole image with its crops' boxes."""
    try:
        whole = decode(key_path(images, key)).image
    except UnreadableImage as error:
        return Cell(None, str(error))
    small = np.ascontiguousarray(fit(whole, SIDE))
    scale = len(small) / len(whole)
    boxes = parameters[:, COLUMN["box_top"] : COLUMN["box_width"] + 1] * scale
    for top, left, height, width in boxes.round().int().tolist():
        cv2.rectangle(small, (left, top, width, height), _BOX, 2)
    return Cell(small)


def _boxed(mask: np.ndarray) -> np.ndarray:
    """Return a mask, uint8 (S, S), in gray with the object's box."""
    picture, box = np.stack([mask] * 3, -1), tight_box(mask)
    if box is not None:
        top, left, height, width = box
        cv2.rectangle(picture, (left, top, width, height), _BOX, max(1, len(mask) // 80))
    return picture


def picture_of(pixels: torch.Tensor) -> np.ndarray:
    """Turn float (C, S, S) in [0, 1] into uint8 (S, S) or (S, S, 3)."""
    levels = np.rint(pixels.clamp(0, 1).numpy() * 255).astype(np.uint8)
    return levels[0] if len(levels) == 1 else levels.transpose(1, 2, 0)


def draw_curve(metrics: Path, picture: Path, title: str, chance_loss: float | None = None) -> None:
    """Draw metrics.jsonl as a PNG.

    chance_loss : the loss of a network that knows nothing; a dashed line.
    """
    lines = read_metrics(metrics)
    steps = np.array([line["step"] for line in lines if "loss" in line])
    losses = np.array([line["loss"] for line in lines if "loss" in line])
    if not len(steps):
        return
    with plot(picture, 8, 4.5, dpi=120) as (axes,):
        axes.plot(steps, losses, color="#9ecae1", linewidth=0.6)
        width = max(1, len(losses) // 50)
        label = "loss" if width == 1 else f"loss, mean of {width} steps"
        smooth = np.convolve(losses, np.ones(width) / width, mode="valid")
        axes.plot(steps[width - 1 :], smooth, color="#08519c", label=label)
        if chance_loss is not None:
            label = f"a network that knows nothing: {chance_loss:.2f}"
            axes.axhline(chance_loss, color="gray", linestyle="--", linewidth=1, label=label)
        axes.set(xlabel="step", ylabel="loss [nats]", title=title)
        axes.grid(alpha=0.3)
        handles, labels = axes.get_legend_handles_labels()
        knn = [(line["step"], 100 * line["knn"]) for line in lines if "knn" in line]
        if knn:
            right = axes.twinx()
            right.plot(
                *zip(*knn, strict=True), "o-", color="#d94801", markersize=4, label="kNN top-1"
            )
            right.set(
                ylabel="kNN top-1 [%]", ylim=(0, max(10, math.ceil(max(y for _, y in knn) * 1.2)))
            )
            more, names = right.get_legend_handles_labels()
            handles, labels = handles + more, labels + names
        below = {"loc": "outside lower center", "ncols": len(handles)}  # off the lines
        axes.figure.legend(handles, labels, **below)
