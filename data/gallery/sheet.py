"""Many masks as one picture: image | mask | foreground on grey, headings and captions."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from data.gallery.lettering import load_font, wrap
from data.gallery.panels import Row
from data.keys import printable

_PAPER, _INK, _FAINT, _CELL = (255, 255, 255), (30, 30, 30), (110, 110, 110), (236, 236, 238)
_GAP, _MARGIN = 8, 20
_LINE, _HEAD_LINE = 17, 18  # of text


@dataclass
class _Cell:
    """One picture, or in its place the lines that say why there is none; and lines below it."""

    picture: np.ndarray | None
    inside: list[str]
    key: list[str]
    note: list[str]


def draw_sheet(
    rows: Sequence[Row], methods: Sequence[str], side: int = 240, columns: int = 0
) -> Image.Image:
    """Draw rows as a grid of pictures; text is broken into lines, and whole.

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
    bold, plain = load_font(15, bold=True), load_font(13)
    columns = min(columns or (2 if len(methods) == 1 else 1), len(rows))
    tallest = max([picture.shape[0] for row in rows for picture in _pictures(row)], default=side)
    height = tallest if len(rows) == 1 else min(tallest, side * 3 // 4)
    block_width = (1 + 2 * len(methods)) * (side + _GAP) - _GAP
    titles = [wrap(printable(title), side, bold) for title in _titles(methods)]
    head = max(map(len, titles)) * _HEAD_LINE + 10
    cells = [_cells(row, side, plain) for row in rows]
    lines = [cells[start : start + columns] for start in range(0, len(cells), columns)]
    heights = [_heights(line, height) for line in lines]
    tops = np.cumsum([_MARGIN + head, *map(sum, heights)]).tolist()
    width = 2 * _MARGIN + columns * (block_width + 3 * _GAP) - 3 * _GAP
    sheet = Image.new("RGB", (width, tops[-1] + _MARGIN), _PAPER)
    draw = ImageDraw.Draw(sheet)
    lefts = [_MARGIN + column * (block_width + 3 * _GAP) for column in range(columns)]
    for left in lefts:
        for number, title in enumerate(titles):
            _write(draw, (left + number * (side + _GAP), _MARGIN), title, _INK, bold, _HEAD_LINE)
    for line, top, (tall, _) in zip(lines, tops[:-1], heights, strict=True):
        for left, block in zip(lefts, line, strict=False):
            for number, cell in enumerate(block):
                x, below = left + number * (side + _GAP), top + tall + 3
                _paste(sheet, draw, cell, (x, top, side, tall), plain)
                _write(draw, (x, below), cell.key, _INK, plain)
                _write(draw, (x, below + len(cell.key) * _LINE), cell.note, _FAINT, plain)
    return sheet


def _pictures(row: Row) -> list[np.ndarray]:
    found = [row.image, *(panel.mask for panel in row.panels)]
    return [picture for picture in found if picture is not None]


def _titles(methods: Sequence[str]) -> list[str]:
    titles = ["image"]
    for method in methods:
        titles += [f"{method}: mask", "foreground"]
    return titles


def _cells(row: Row, side: int, font: ImageFont.FreeTypeFont) -> list[_Cell]:
    """Return the image's cell, and two for each panel."""

    def cell(picture: np.ndarray | None, note: str, key: str = "") -> _Cell:
        name = wrap(printable(key), side, font)
        if picture is None:
            return _Cell(None, wrap(printable(note), side - 2 * _GAP, font), name, [])
        return _Cell(picture, [], name, wrap(printable(note), side, font))

    cells = [cell(row.image, row.note, row.key)]
    for panel in row.panels:
        cells.append(cell(panel.mask, panel.note))
        # a mask that is missing says so already
        lost = panel.mask is not None and panel.foreground is None and row.image is None
        cells.append(cell(panel.foreground, "no image to cut out" if lost else ""))
    return cells


def _heights(line: list[list[_Cell]], height: int) -> tuple[int, int]:
    """Return how tall the pictures of a line are and the text below them, in pixels."""
    inside = max(len(cell.inside) for block in line for cell in block) * _HEAD_LINE + 2 * _GAP
    below = max(len(cell.key) + len(cell.note) for block in line for cell in block)
    return max(height, inside), 10 + _LINE * max(below, 2)


def _write(draw, place: tuple[int, int], lines: list[str], ink, font, step: int = _LINE) -> None:
    for number, line in enumerate(lines):
        draw.text((place[0], place[1] + number * step), line, ink, font)


def _paste(
    sheet: Image.Image,
    draw: ImageDraw.ImageDraw,
    cell: _Cell,
    box: tuple[int, int, int, int],
    font: ImageFont.FreeTypeFont,
) -> None:
    """Paste a picture into the middle of a cell, or write why it is not there."""
    x, y, width, height = box
    draw.rectangle((x, y, x + width - 1, y + height - 1), _CELL)
    if cell.picture is None:
        _write(draw, (x + _GAP, y + _GAP), cell.inside, _FAINT, font, _HEAD_LINE)
        return
    image = Image.fromarray(cell.picture)
    image.thumbnail((width, height))
    sheet.paste(image, (x + (width - image.width) // 2, y + (height - image.height) // 2))
