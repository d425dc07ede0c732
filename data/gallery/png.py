"""Rows of pictures as one picture; text, in most of the world's letters, is broken into lines."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from data.gallery.rows import Row, as_rgb, fit
from data.keys import printable

RIGHT, WRONG = (31, 138, 61), (201, 42, 42)  # green and red, told apart in gray, too
_PAPER, _INK, _FAINT = (255, 255, 255), (30, 30, 30), (110, 110, 110)
_BOX, _EDGE = (236, 236, 238), (200, 200, 200)
_GAP, _MARGIN, _FRAME = 8, 20, 3
_LINE, _HEAD_LINE = 16, 18  # of text


def draw_rows(columns: Sequence[str], rows: Sequence[Row], side: int) -> Image.Image:
    """Return the heads and the rows, cells `side` pixels wide (`Gallery.draw`)."""
    lefts, left = [], _MARGIN
    for head in columns:
        left += 2 * _GAP if head and lefts else 0  # a group of columns begins
        lefts.append(left)
        left += side + _GAP
    width = left - _GAP + _MARGIN
    strips = [_heads(columns, lefts, width), *(_row(row, lefts, side, width) for row in rows)]
    tops = np.cumsum([_MARGIN, *(strip.height for strip in strips)]).tolist()
    sheet = Image.new("RGB", (width, tops[-1] + _MARGIN), _PAPER)
    for strip, top in zip(strips, tops[:-1], strict=True):
        sheet.paste(strip, (0, top))
    return sheet


def _heads(columns: Sequence[str], lefts: list[int], width: int) -> Image.Image:
    """Draw the heads, each as wide as the columns that it is for."""
    font = load_font(15, bold=True)
    starts = [left for head, left in zip(columns, lefts, strict=True) if head]
    ends = [*(start - 3 * _GAP for start in starts[1:]), width - _MARGIN]
    lines = [
        wrap(printable(head), end - start, font)
        for head, start, end in zip(filter(None, columns), starts, ends, strict=True)
    ]
    strip = Image.new("RGB", (width, max(map(len, lines), default=0) * _HEAD_LINE + 10), _PAPER)
    for start, text in zip(starts, lines, strict=True):
        _write(strip, (start, 0), text, _INK, font, _HEAD_LINE)
    return strip


def _row(row: Row, lefts: list[int], side: int, width: int) -> Image.Image:
    """Draw a caption, the cells, and the captions of the cells below them or in their stead."""
    bold, font = load_font(13, bold=True), load_font(12)
    caption = wrap(printable(row.caption), width - 2 * _MARGIN, bold)
    pictures = [None if cell.picture is None else fit(cell.picture, side) for cell in row.cells]
    there = [picture is not None for picture in pictures]
    texts = [
        wrap(printable(cell.caption), side - 2 * _GAP * (not shown), font)
        for cell, shown in zip(row.cells, there, strict=True)
    ]
    inside = max((len(t) for t, shown in zip(texts, there, strict=True) if not shown), default=0)
    below = max((len(t) for t, shown in zip(texts, there, strict=True) if shown), default=0)
    tallest = max((picture.shape[0] for picture in pictures if picture is not None), default=0)
    tall = max(tallest, inside * _LINE + 2 * _GAP)
    top = len(caption) * _LINE + _GAP
    strip = Image.new("RGB", (width, top + tall + below * _LINE + 2 * _GAP), _PAPER)
    _write(strip, (_MARGIN, 0), caption, _INK, bold)
    for left, cell, picture, text in zip(lefts, row.cells, pictures, texts, strict=False):
        if picture is None:
            box = (left, top, left + side - 1, top + tall - 1)
            ImageDraw.Draw(strip).rectangle(box, _BOX)
            _write(strip, (left + _GAP, top + _GAP), text, _FAINT, font)
        else:
            _paste(strip, (left, top), cell.right, as_rgb(picture))
            _write(strip, (left, top + tall + _FRAME + 1), text, _FAINT, font)
    return strip


def _paste(
    strip: Image.Image, corner: tuple[int, int], right: bool | None, picture: np.ndarray
) -> None:
    """Paste a picture with a frame; a thin gray one shows a white mask on white paper."""
    (left, top), (height, width) = corner, picture.shape[:2]
    wide = 1 if right is None else _FRAME
    ink = {None: _EDGE, True: RIGHT, False: WRONG}[right]
    frame = (left - wide, top - wide, left + width + wide - 1, top + height + wide - 1)
    ImageDraw.Draw(strip).rectangle(frame, None, ink, wide)
    strip.paste(Image.fromarray(picture), corner)


def _write(
    strip: Image.Image,
    corner: tuple[int, int],
    lines: list[str],
    ink: tuple[int, int, int],
    font: ImageFont.FreeTypeFont,
    step: int = _LINE,
) -> None:
    draw = ImageDraw.Draw(strip)
    for number, line in enumerate(lines):
        draw.text((corner[0], corner[1] + number * step), line, ink, font)


_BREAKS = frozenset(" _-/,.")  # a line may end after these


def load_font(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    """Return DejaVu Sans, which matplotlib carries, in pixels."""
    import matplotlib  # a fifth of the start of `mask-shards`, were it at the top

    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(Path(matplotlib.get_data_path(), "fonts", "ttf", name), size)


def wrap(text: str, width: int, font: ImageFont.FreeTypeFont) -> list[str]:
    """Break a text into lines of at most `width` pixels; nothing but spaces at their ends goes.

    Lines end after a space or one of `_-/,.` where one fits, else after any letter, so that a name
    without any is whole, too. A line has at least one letter, however narrow the width.
    """
    lines = []
    rest = text.strip()
    while rest:
        lengths = range(1, len(rest) + 1)
        count = max(1, bisect_right(lengths, width, key=lambda n: font.getlength(rest[:n])))
        if count < len(rest) and rest[count] != " ":
            ends = (at + 1 for at in range(count - 1, 0, -1) if rest[at] in _BREAKS)
            count = next(ends, count)
        lines.append(rest[:count].rstrip())
        rest = rest[count:].lstrip()
    return lines
