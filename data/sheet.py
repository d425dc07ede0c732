"""Many masks as one picture: image | mask | foreground on grey, headings and captions."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from data.keys import printable
from data.panels import Panel, Row

_PAPER, _INK, _FAINT, _CELL = (255, 255, 255), (30, 30, 30), (110, 110, 110), (236, 236, 238)
_GAP, _MARGIN = 8, 20


def draw_sheet(
    rows: Sequence[Row], methods: Sequence[str], side: int = 240, columns: int = 0
) -> Image.Image:
    """Draw rows as a grid of pictures.

    Parameters
    ----------
    rows
        What to show (`panels.make_row`).
    methods
        The heading of each row's panels.
    side
        The width of a picture's cell in pixels; its height is 3/4 of that, or more where there is
        only one row.
    columns
        How many rows stand beside each other; 0: two for one method, one for several.
    """
    bold, plain = _font("DejaVuSans-Bold.ttf", 15), _font("DejaVuSans.ttf", 13)
    columns = min(columns or (2 if len(methods) == 1 else 1), len(rows))
    cells = 1 + 2 * len(methods)
    tallest = max([picture.shape[0] for row in rows for picture in _pictures(row)], default=side)
    height = tallest if len(rows) == 1 else min(tallest, side * 3 // 4)
    block_width = cells * (side + _GAP) - _GAP
    head, caption = 28, 44
    block_height = height + caption
    lines = -(-len(rows) // columns)
    sheet = Image.new(
        "RGB",
        (
            2 * _MARGIN + columns * (block_width + 3 * _GAP) - 3 * _GAP,
            2 * _MARGIN + head + lines * block_height,
        ),
        _PAPER,
    )
    draw = ImageDraw.Draw(sheet)
    for column in range(columns):
        left = _MARGIN + column * (block_width + 3 * _GAP)
        for cell, text in enumerate(_titles(methods)):
            place = (left + cell * (side + _GAP), _MARGIN)
            draw.text(place, _fitting(draw, text, bold, side), _INK, bold)
    for number, row in enumerate(rows):
        line, column = divmod(number, columns)
        left = _MARGIN + column * (block_width + 3 * _GAP)
        top = _MARGIN + head + line * block_height
        pictures = [(row.image, row.note)]
        for panel in row.panels:
            pictures += [(panel.mask, panel.note), (panel.foreground, _no_foreground(row, panel))]
        for cell, (picture, note) in enumerate(pictures):
            x = left + cell * (side + _GAP)
            _paste(sheet, draw, picture, note, (x, top, side, height), plain)
        below = top + height + 3
        name = _fitting(draw, printable(row.key), plain, side, keep_end=True)
        draw.text((left, below), name, _INK, plain)
        if row.image is not None:
            draw.text((left, below + 17), _fitting(draw, row.note, plain, side), _FAINT, plain)
        for cell, panel in enumerate(row.panels):
            if panel.mask is not None:
                x = left + (1 + 2 * cell) * (side + _GAP)
                draw.text((x, below), _fitting(draw, panel.note, plain, side), _FAINT, plain)
    return sheet


def _pictures(row: Row) -> list[np.ndarray]:
    found = [row.image, *(panel.mask for panel in row.panels)]
    return [picture for picture in found if picture is not None]


def _titles(methods: Sequence[str]) -> list[str]:
    titles = ["image"]
    for method in methods:
        titles += [f"{method}: mask", "foreground"]
    return titles


def _no_foreground(row: Row, panel: Panel) -> str:
    """Say why a foreground is missing, where its mask does not say so already."""
    return "no image to cut out" if panel.mask is not None and row.image is None else ""


def _paste(
    sheet: Image.Image,
    draw: ImageDraw.ImageDraw,
    picture: np.ndarray | None,
    note: str,
    box: tuple[int, int, int, int],
    font: ImageFont.FreeTypeFont,
) -> None:
    """Paste a picture into the middle of a cell, or write why it is not there."""
    x, y, width, height = box
    draw.rectangle((x, y, x + width - 1, y + height - 1), _CELL)
    if picture is None:
        for number, text in enumerate(_wrapped(draw, note, font, width - 2 * _GAP)[: height // 18]):
            draw.text((x + _GAP, y + _GAP + 18 * number), text, _FAINT, font)
        return
    image = Image.fromarray(picture)
    image.thumbnail((width, height))
    sheet.paste(image, (x + (width - image.width) // 2, y + (height - image.height) // 2))


def _font(name: str, size: int) -> ImageFont.FreeTypeFont:
    """Return one of the fonts that matplotlib carries, which know most of the world's letters."""
    import matplotlib  # a fifth of the command's start, were it at the top

    return ImageFont.truetype(Path(matplotlib.get_data_path(), "fonts", "ttf", name), size)


def _fitting(draw, text: str, font, width: int, keep_end: bool = False) -> str:
    """Shorten a text to a width; a key keeps its end, the file's name."""
    if draw.textlength(text, font) <= width:
        return text
    while text and draw.textlength(text + "…", font) > width:
        text = text[1:] if keep_end else text[:-1]
    return "…" + text if keep_end else text + "…"


def _wrapped(draw, text: str, font, width: int) -> list[str]:
    lines: list[str] = []
    for word in text.split():
        if lines and draw.textlength(f"{lines[-1]} {word}", font) <= width:
            lines[-1] += f" {word}"
        else:
            lines.append(_fitting(draw, word, font, width))
    return lines
