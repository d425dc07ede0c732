"""A gallery as one HTML file that needs no network."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from data.gallery.rows import Cell, Figure, Row, fit, png_bytes
from data.keys import printable

if TYPE_CHECKING:
    from data.gallery import Gallery

_STYLE = """
:root { color-scheme: light dark; --paper: #fff; --ink: #1c1c1e; --faint: #6b6b70;
  --line: #e3e3e8; --cell: #f4f4f6; --right: #1f8a3d; --wrong: #c92a2a; }
@media (prefers-color-scheme: dark) { :root { --paper: #17171a; --ink: #ececf0; --faint: #9a9aa2;
  --line: #2e2e34; --cell: #212126; --right: #3fbf63; --wrong: #ff6b6b; } }
body { margin: 0 auto; padding: 1.5rem; max-width: max-content; background: var(--paper);
  color: var(--ink); font: 15px/1.45 system-ui, sans-serif; }
h1 { font-size: 1.4rem; margin: 0 0 .3rem; }
h2 { font-size: 1.1rem; margin: 1.6rem 0 .2rem; }
p { margin: .2rem 0; max-width: 46rem; color: var(--faint); }
a { color: inherit; }
table { border-collapse: collapse; margin-top: 1.2rem; }
.figures td, .figures th { border-bottom: 1px solid var(--line); padding: .2rem 1.2rem .2rem 0;
  text-align: left; font-variant-numeric: tabular-nums; }
thead th { position: sticky; top: 0; background: var(--paper); text-align: left; z-index: 1;
  padding: .5rem .4rem; border-bottom: 2px solid var(--line); overflow-wrap: anywhere; }
.rows td { padding: .1rem .4rem .7rem; vertical-align: top; }
.rows .caption td { border-top: 1px solid var(--line); padding: .5rem .4rem .1rem; font-weight: 600;
  overflow-wrap: anywhere; }
.rows .group { border-left: 1px solid var(--line); padding-left: .8rem; }
figure { margin: 0; width: calc(var(--side) + 6px); }
figure img { display: block; border: 3px solid transparent; background: var(--cell)
  padding-box; outline: 1px solid var(--line); outline-offset: -3px; }
.small { image-rendering: pixelated; }
figure.right img { border-color: var(--right); }
figure.wrong img { border: 3px dashed var(--wrong); }
figcaption { color: var(--faint); font-size: .85rem; line-height: 1.3; overflow-wrap: anywhere; }
.none { min-height: 4rem; padding: .6rem; border-radius: 3px; background: var(--cell); }
.plot img { max-width: 62rem; width: 100%; height: auto; background: #fff; }
"""


def make_page(gallery: Gallery) -> str:
    """Return the page's text (`Gallery.html`)."""
    starts = [number for number, head in enumerate(gallery.columns) if head]
    spans = np.diff([*starts, len(gallery.columns)]).tolist()
    heads = "".join(
        f'<th colspan="{span}"{_group(start > 0)}>{_text(gallery.columns[start])}</th>'
        for start, span in zip(starts, spans, strict=True)
    )
    body = "\n".join(_row(row, gallery) for row in gallery.rows)
    rows = (
        f'<table class="rows">\n<thead><tr>{heads}</tr></thead>\n<tbody>\n{body}\n</tbody>\n'
        "</table>\n"
    )
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{_text(gallery.title)}</title>\n"
        f"<style>{_STYLE}:root {{ --side: {gallery.side}px; }}</style>\n</head>\n<body>\n"
        f"<h1>{_text(gallery.title)}</h1>\n"
        + "".join(f"<p>{_text(sentence)}</p>\n" for sentence in gallery.sentences)
        + _table(gallery.table)
        + "".join(map(_figure, gallery.figures))
        + (rows if gallery.rows else "")
        + "</body>\n</html>\n"
    )


def _row(row: Row, gallery: Gallery) -> str:
    caption = f'<tr class="caption"><td colspan="{len(gallery.columns)}">{_text(row.caption)}</td>'
    cells = "".join(
        f"<td{_group(bool(head) and number > 0)}>{_cell(row, cell, gallery.side)}</td>"
        for number, (head, cell) in enumerate(zip(gallery.columns, row.cells, strict=False))
    )
    return (caption + "</tr>" if row.caption else "") + f"<tr>{cells}</tr>"


def _group(begins: bool) -> str:
    return ' class="group"' if begins else ""


def _cell(row: Row, cell: Cell, side: int) -> str:
    kind = {None: "", True: "right", False: "wrong"}[cell.right]
    caption = f"<figcaption>{_text(cell.caption)}</figcaption>"
    if cell.picture is None:
        return f'<figure class="none">{caption}</figure>'
    description = " ".join(filter(None, (row.caption, cell.caption, kind)))
    return f'<figure class="{kind}">{_img(cell.picture, description, side)}{caption}</figure>'


def _img(picture: np.ndarray, description: str, side: int) -> str:
    """Return an img element, `side` pixels long, with its picture: a photograph as JPEG, or PNG."""
    height, width = fit(picture, side).shape[:2]
    kind = ' class="small"' if max(height, width) > max(picture.shape[:2]) else ""
    if max(picture.shape[:2]) > 2 * side:
        picture = fit(picture, 2 * side)
    if picture.ndim == 2:
        uri = _uri(png_bytes(Image.fromarray(picture)))
    else:
        memory = io.BytesIO()
        Image.fromarray(picture).save(memory, "JPEG", quality=88)
        uri = _uri(memory.getvalue(), "jpeg")
    return (
        f'<img{kind} src="{uri}" width="{width}" height="{height}" alt="{_text(description)}" '
        'loading="lazy">'
    )


def _figure(figure: Figure) -> str:
    source = figure.png if isinstance(figure.png, str) else _uri(figure.png)
    text = f"<p>{_text(figure.text)}</p>" if figure.text else ""
    more = f'<p><a href="{_text(figure.more)}">More of them</a></p>' if figure.more else ""
    return (
        f"<h2>{_text(figure.title)}</h2>{text}"
        f'<div class="plot"><img src="{_text(source)}" alt="{_text(figure.title)}"></div>{more}\n'
    )


def _table(table: Sequence[dict[str, str]]) -> str:
    if not table:
        return ""
    head = "".join(f"<th>{_text(name)}</th>" for name in table[0])
    body = "".join(
        "<tr>" + "".join(f"<td>{_text(value)}</td>" for value in row.values()) + "</tr>"
        for row in table
    )
    return f'<table class="figures"><tr>{head}</tr>{body}</table>\n'


def _uri(data: bytes, kind: str = "png") -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def _text(text: str) -> str:
    return html.escape(printable(str(text)))
