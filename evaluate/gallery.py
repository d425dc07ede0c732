"""Rows of pictures, one column for each model: as one PNG, and as one self-contained HTML page."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from data.gallery.lettering import load_font, wrap
from data.keys import printable

RIGHT, WRONG = (31, 138, 61), (201, 42, 42)  # green and red, told apart in gray, too
TILE, GAP, BORDER = 96, 6, 3  # pixels of the PNG
HEAD_LINE, LINE = 16, 12  # of its lines of text


@dataclass
class Picture:
    """A picture with a caption. `right` colours its frame: True green, False red, None no frame."""

    pixels: np.ndarray  # (h, w, 3) or (h, w) uint8
    caption: str = ""
    right: bool | None = None


@dataclass
class Row:
    """What one image shows: the pictures of each column, and a remark on the row."""

    cells: list[list[Picture]]
    remark: str = ""


@dataclass
class Gallery:
    """A title, sentences that say what is shown, a table, plots, and rows under column heads."""

    title: str
    sentences: list[str]
    columns: list[str]
    rows: list[Row] = field(default_factory=list)
    table: list[dict[str, str]] = field(default_factory=list)
    plots: list[tuple[str, bytes]] = field(default_factory=list)  # (alternative text, PNG)

    def save_png(self, path: Path, rows: int) -> None:
        """Draw the first `rows` rows; heads and captions are broken into lines, and whole."""
        shown = self.rows[:rows]
        widths = [max(len(row.cells[i]) for row in shown) for i in range(len(self.columns))]
        step = TILE + 2 * BORDER + 2
        lefts = np.cumsum([GAP, *(width * step + 2 * GAP for width in widths)])
        head, small = load_font(13), load_font(10)
        heads = [
            wrap(printable(column), width * step, head)
            for column, width in zip(self.columns, widths, strict=True)
        ]
        above = (max(len(lines) for lines in heads) + 1) * HEAD_LINE
        captions = [_captions(row, small) for row in shown]
        heights = [
            TILE + 2 * BORDER + max(map(len, lines.values()), default=0) * LINE + 2 * GAP
            for lines in captions
        ]
        tops = np.cumsum([above, *heights])
        sheet = Image.new("RGB", (int(lefts[-1]), int(tops[-1])), "white")
        draw = ImageDraw.Draw(sheet)
        for left, lines in zip(lefts[:-1], heads, strict=True):
            for number, line in enumerate(lines):
                draw.text((left, 6 + number * HEAD_LINE), line, fill="black", font=head)
        for top, row, lines in zip(tops[:-1], shown, captions, strict=True):
            for column, cell in enumerate(row.cells):
                for place, picture in enumerate(cell):
                    corner = (int(lefts[column]) + place * step, int(top))
                    _draw(sheet, draw, picture, corner)
                    below = (corner[0] + BORDER, corner[1] + TILE + 2 * BORDER)
                    for number, line in enumerate(lines[column, place]):
                        place_of_line = (below[0], below[1] + number * LINE)
                        draw.text(place_of_line, line, fill="black", font=small)
        sheet.save(path, format="PNG")

    def save_html(self, path: Path) -> None:
        """Write one page with every picture inside it; it needs no other file and no network."""
        # a folder's name may be bytes that are no UTF-8
        path.write_text(self.html(), encoding="utf-8", errors="backslashreplace")

    def html(self) -> str:
        """The page's text."""
        sentences = "".join(f"<p>{html.escape(text)}</p>" for text in self.sentences)
        plots = "".join(
            f'<img class="plot" alt="{html.escape(name)}" src="{_uri(png, "png")}">'
            for name, png in self.plots
        )
        heads = "".join(f"<th>{html.escape(column)}</th>" for column in self.columns)
        rows = "".join(_html_row(row) for row in self.rows)
        return _PAGE.format(
            title=html.escape(self.title),
            sentences=sentences,
            table=_html_table(self.table),
            plots=plots,
            heads=heads,
            rows=rows,
        )


def _captions(row: Row, font: ImageFont.FreeTypeFont) -> dict[tuple[int, int], list[str]]:
    """The lines below each picture: (column, place in it) -> lines."""
    return {
        (column, place): wrap(printable(picture.caption), TILE, font)
        for column, cell in enumerate(row.cells)
        for place, picture in enumerate(cell)
    }


def _draw(sheet, draw, picture: Picture, corner: tuple[int, int]) -> None:
    left, top = corner
    if picture.right is not None:
        box = (left, top, left + TILE + 2 * BORDER - 1, top + TILE + 2 * BORDER - 1)
        draw.rectangle(box, outline=RIGHT if picture.right else WRONG, width=BORDER)
    tile = Image.fromarray(picture.pixels).convert("RGB").resize((TILE, TILE), Image.LANCZOS)
    sheet.paste(tile, (left + BORDER, top + BORDER))


def _html_row(row: Row) -> str:
    cells = "".join(
        f"<td>{''.join(_html_picture(picture) for picture in cell)}</td>" for cell in row.cells
    )
    remark = f'<tr class="remark"><td colspan="99">{html.escape(row.remark)}</td></tr>'
    return (remark if row.remark else "") + f"<tr>{cells}</tr>"


def _html_picture(picture: Picture) -> str:
    kind = {None: "", True: "right", False: "wrong"}[picture.right]
    caption = html.escape(picture.caption)
    alternative = f"{caption} ({kind})" if kind else caption
    return (
        f'<figure class="{kind}"><img alt="{alternative}" src="{_uri(_jpeg(picture.pixels))}">'
        f"<figcaption>{caption}</figcaption></figure>"
    )


def _html_table(table: Sequence[dict[str, str]]) -> str:
    if not table:
        return ""
    head = "".join(f"<th>{html.escape(name)}</th>" for name in table[0])
    body = "".join(
        "<tr>" + "".join(f"<td>{html.escape(str(value))}</td>" for value in row.values()) + "</tr>"
        for row in table
    )
    return f'<table class="figures"><tr>{head}</tr>{body}</table>'


def _jpeg(pixels: np.ndarray) -> bytes:
    picture = Image.fromarray(pixels).convert("RGB")
    picture.thumbnail((224, 224), Image.LANCZOS)
    memory = io.BytesIO()
    picture.save(memory, "JPEG", quality=85)
    return memory.getvalue()


def _uri(data: bytes, kind: str = "jpeg") -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


_PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>
body {{ font: 15px/1.5 system-ui, sans-serif; margin: 2rem; color: #222; background: #fff; }}
p {{ max-width: 50rem; margin: .4rem 0; }}
table {{ border-collapse: collapse; margin-top: 1rem; }}
table.figures td, table.figures th {{ border-bottom: 1px solid #ddd; padding: .2rem 1rem .2rem 0;
  text-align: left; font-variant-numeric: tabular-nums; }}
table.rows > tbody > tr > td {{ vertical-align: top; padding: .3rem 1.2rem .3rem 0; }}
table.rows th {{ text-align: left; position: sticky; top: 0; background: #fff; padding: .4rem 0; }}
tr.remark td {{ border-top: 1px solid #ccc; color: #555; font-size: 13px; padding-top: .5rem; }}
figure {{ display: inline-block; margin: 0 4px 4px 0; width: 102px; vertical-align: top; }}
figure img {{ width: 96px; height: 96px; object-fit: contain; border: 3px solid transparent;
  display: block; image-rendering: auto; }}
figure.right img {{ border-color: #1f8a3d; }}
figure.wrong img {{ border-color: #c92a2a; border-style: dashed; }}
figcaption {{ font-size: 11px; line-height: 1.2; overflow-wrap: anywhere; }}
img.plot {{ max-width: 48rem; width: 100%; display: block; margin: 1rem 0; }}
</style></head><body>
<h1>{title}</h1>
{sentences}{table}{plots}
<table class="rows"><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table>
</body></html>
"""
