"""Rows of pictures with captions: a gallery, as HTML, as PNG and on a terminal."""

from __future__ import annotations

import os
from dataclasses import dataclass, field

from PIL import Image

from data.files import write_whole
from data.gallery.rows import Cell, Figure, Row, png_bytes

__all__ = ["Cell", "Figure", "Gallery", "Row"]


@dataclass
class Gallery:
    """Rows of pictures below the heads of their columns, and what stands above them on a page.

    columns : a head for each cell; "" continues the head to its left.
    table : rows of figures, each name: value as shown.
    """

    title: str
    sentences: list[str]
    columns: list[str]
    rows: list[Row] = field(default_factory=list)
    table: list[dict[str, str]] = field(default_factory=list)
    figures: list[Figure] = field(default_factory=list)

    @property
    def side(self) -> int:
        """The longer side of a picture in pixels that lets all columns fit a screen's width."""
        return min(300, max(96, 1100 // max(1, len(self.columns))))

    def html(self) -> str:
        """Return a page that holds its pictures and needs no network."""
        from data.gallery.page import make_page

        return make_page(self)

    def draw(self, rows: int | None = None, side: int = 0) -> Image.Image:
        """Return the first `rows` rows as a picture, each cell `side` pixels wide; 0: `side`."""
        from data.gallery.png import draw_rows

        return draw_rows(self.columns, self.rows[:rows], side or self.side)

    def save_html(self, path: str | os.PathLike) -> None:
        """Write the page, whole or not at all."""
        write_whole(path, self.html())

    def save_png(self, path: str | os.PathLike, rows: int | None = None, side: int = 0) -> None:
        """Write the picture, whole or not at all; arguments as for `draw`."""
        write_whole(path, png_bytes(self.draw(rows, side)))
