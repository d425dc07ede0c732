"""`views.png`: what the model really sees, stage by stage."""

from __future__ import annotations

import os

import cv2
import numpy as np
import torch

from data.backgrounds.partner import tight_box
from data.gallery import Cell, Gallery, Row
from data.gallery.rows import fit
from data.images.decode import UnreadableImage, decode
from data.images.listing import key_path
from data.keys import Keys
from pretrain.views.augment import DeviceAugment
from pretrain.views.draws import COLUMN

_SIDE = 160  # pixels of a cell
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
    part = {
        name: value[:count]
        for name, value in batch.items()
        if isinstance(value, torch.Tensor) and name not in ("missing", "replaced")
    }
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
                picture = _picture(stages[stage][row, view])
                cells.append(Cell(_boxed(picture) if stage == "saliency" else picture, note))
        rows.append(Row(keys[index], cells))
    return Gallery("What the network sees", [], columns, rows)


def save_views(
    path: str | os.PathLike,
    batch: dict[str, torch.Tensor],
    augment: DeviceAugment,
    images: str | os.PathLike,
    keys: Keys,
    count: int = 8,
) -> None:
    """Write `views_gallery` as a PNG, whole or not at all."""
    views_gallery(batch, augment, images, keys, count).save_png(path, side=_SIDE)


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
    small = np.ascontiguousarray(fit(whole, _SIDE))
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


def _picture(pixels: torch.Tensor) -> np.ndarray:
    """Turn float (C, S, S) in [0, 1] into uint8 (S, S) or (S, S, 3)."""
    levels = np.rint(pixels.clamp(0, 1).numpy() * 255).astype(np.uint8)
    return levels[0] if len(levels) == 1 else levels.transpose(1, 2, 0)
