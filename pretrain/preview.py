"""`views.png`: what the model really sees, stage by stage."""

from __future__ import annotations

import io
import os

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from data.files import write_whole
from data.images.decode import UnreadableImage, decode, key_path
from data.keys import Keys, printable
from pretrain.views.augment import DeviceAugment
from pretrain.views.draws import COLUMN

_CELL = 160  # pixels
_GAP = 6
_LINE = 18  # height of a line of text
_PAPER, _INK, _FAINT, _BOX = (255, 255, 255), (20, 20, 20), (120, 120, 120), (255, 140, 0)
_EDGE = (200, 200, 200)


def save_views(
    path: str | os.PathLike,
    batch: dict[str, torch.Tensor],
    augment: DeviceAugment,
    images: str | os.PathLike,
    keys: Keys,
    count: int = 8,
) -> None:
    """Draw a batch's first images as a labelled grid and write it as PNG.

    A row is an image: the whole photograph with the boxes of its crops; then of each view the crop,
    its mask, the crop on its new background, and the final view before normalisation.

    Parameters
    ----------
    path : the PNG; written whole, or not at all.
    batch : from the loader, on `augment`'s device.
    images, keys : the image folder and its images; those that cannot be read again stay blank.
    count : rows.
    """
    part = {
        name: value[:count]
        for name, value in batch.items()
        if isinstance(value, torch.Tensor) and name not in ("missing", "replaced")
    }
    stages = {name: value.cpu() for name, value in augment.preview(part).items()}
    parameters = part["parameters"].cpu()
    shown = [("image", "crop"), ("mask", "mask"), ("pasted", "pasted"), ("view", "view")]
    shown = [(stage, title) for stage, title in shown if stage in stages]
    if "mask" not in stages:
        shown = [(stage, title) for stage, title in shown if stage != "pasted"]
    rows, views = parameters.shape[:2]
    titles = ["image"] + [
        f"{title} {view + 1}" if views > 1 else title for view in range(views) for _, title in shown
    ]
    sheet = _Sheet(rows, titles)
    for row in range(rows):
        key = keys[int(part["index"][row])]
        sheet.caption(row, printable(key))
        photograph = _photograph(images, key, parameters[row])
        if photograph is not None:
            sheet.paste(row, 0, photograph)
        for view in range(views):
            values = parameters[row, view]
            for place, (stage, _) in enumerate(shown):
                note = _note(stage, values, "background" in part)
                cell = 1 + view * len(shown) + place
                sheet.paste(row, cell, _picture(stages[stage][row, view]), note)
    pixels = io.BytesIO()
    sheet.image.save(pixels, format="PNG")
    write_whole(path, pixels.getbuffer())


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
    done = [name for name in ("gray", "jitter", "flip") if value(name)]
    done += [f"blur {value('blur'):.1f}"] * (value("blur") > 0)
    return " ".join(done)


def _photograph(
    images: str | os.PathLike, key: str, parameters: torch.Tensor
) -> Image.Image | None:
    """Return the whole image with its crops' boxes, fitted to a cell."""
    try:
        whole = Image.fromarray(decode(key_path(images, key)).image)
    except UnreadableImage:
        return None
    scale = _CELL / max(whole.size)
    small = whole.resize(
        (max(1, round(whole.width * scale)), max(1, round(whole.height * scale))), Image.BILINEAR
    )
    draw = ImageDraw.Draw(small)
    for values in parameters:
        top, left, height, width = values[COLUMN["box_top"] : COLUMN["box_width"] + 1].tolist()
        box = [left * scale, top * scale, (left + width) * scale - 1, (top + height) * scale - 1]
        draw.rectangle(box, outline=_BOX, width=2)
    return small


def _picture(pixels: torch.Tensor) -> Image.Image:
    """Turn float (C, S, S) in [0, 1] into a picture of a cell's size."""
    levels = np.rint(pixels.clamp(0, 1).numpy() * 255).astype(np.uint8)
    picture = Image.fromarray(levels[0] if len(levels) == 1 else levels.transpose(1, 2, 0))
    enlarge = picture.width < _CELL
    return picture.convert("RGB").resize(
        (_CELL, _CELL), Image.NEAREST if enlarge else Image.BILINEAR
    )


class _Sheet:
    """A grid of cells with titles above, a caption above each row and a note below each cell."""

    def __init__(self, rows: int, titles: list[str]) -> None:
        self._row_height = _CELL + 2 * _LINE + _GAP
        width = _GAP + len(titles) * (_CELL + _GAP)
        self.image = Image.new("RGB", (width, _LINE + _GAP + rows * self._row_height), _PAPER)
        self._draw = ImageDraw.Draw(self.image)
        self._font = ImageFont.load_default(13)
        for column, title in enumerate(titles):
            self._draw.text((self._left(column), 3), title, _INK, self._font)

    def _left(self, column: int) -> int:
        return _GAP + column * (_CELL + _GAP)

    def _top(self, row: int) -> int:
        return _LINE + _GAP + row * self._row_height

    def caption(self, row: int, text: str) -> None:
        """Write a line above a row."""
        self._draw.text((_GAP, self._top(row)), text, _FAINT, self._font)

    def paste(self, row: int, column: int, picture: Image.Image, note: str = "") -> None:
        """Put a picture in a cell, and a note below it."""
        left, top = self._left(column), self._top(row) + _LINE
        self.image.paste(picture, (left, top))
        edge = (left - 1, top - 1, left + picture.width, top + picture.height)
        self._draw.rectangle(edge, outline=_EDGE)  # a white mask is seen on white paper
        self._draw.text((left, top + _CELL + 1), note, _FAINT, self._font)
