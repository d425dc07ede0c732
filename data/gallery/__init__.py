"""Rows of pictures with captions: a gallery, as HTML, as PNG and on a terminal."""

from __future__ import annotations

import os

from PIL import Image

from data.files import write_whole
from data.gallery.rows import Cell, Contents, Figure, Row, png_bytes

__all__ = ["Cell", "Figure", "Gallery", "Row"]


class Gallery(Contents):
    """Rows of pictures that can be drawn; see `Contents`."""

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
