"""A page of masks as one HTML file that needs nothing else: no network, no folder beside it."""

import base64
import html
import io
from collections.abc import Sequence

import numpy as np
from PIL import Image

from data.gallery.panels import Panel, Row
from data.keys import printable

_STYLE = """
:root { color-scheme: light dark; --paper: #fff; --ink: #1c1c1e; --faint: #6b6b70;
  --line: #e3e3e8; --cell: #f4f4f6; }
@media (prefers-color-scheme: dark) {
  :root { --paper: #17171a; --ink: #ececf0; --faint: #9a9aa2; --line: #2e2e34; --cell: #212126; } }
body { margin: 0 auto; padding: 1.5rem; max-width: max-content; background: var(--paper);
  color: var(--ink); font: 15px/1.45 system-ui, sans-serif; }
h1 { font-size: 1.4rem; margin: 0 0 .3rem; }
p { margin: .2rem 0; max-width: 46rem; color: var(--faint); }
table { border-collapse: collapse; margin-top: 1.2rem; }
thead th { position: sticky; top: 0; background: var(--paper); text-align: left; z-index: 1;
  white-space: nowrap; padding: .5rem .4rem; border-bottom: 2px solid var(--line); }
td { padding: .55rem .4rem .7rem; vertical-align: top; border-bottom: 1px solid var(--line); }
.group { border-left: 1px solid var(--line); padding-left: .8rem; }
img { display: block; border-radius: 3px; background: var(--cell); }
.name { font-weight: 600; overflow-wrap: anywhere; margin-top: .35rem; }
.note { color: var(--faint); font-size: .87rem; margin-top: .2rem; }
.none { min-height: 5rem; padding: .7rem; border-radius: 3px; box-sizing: border-box;
  background: var(--cell); color: var(--faint); overflow-wrap: anywhere; }
"""


def make_page(
    rows: Sequence[Row], methods: Sequence[str], title: str, lines: Sequence[str] = ()
) -> str:
    """Return the HTML of a page: a table row per image, two columns per method.

    Parameters
    ----------
    rows
        What to show (`panels.make_row`).
    methods
        The heading of each row's panels.
    title
        The page's heading.
    lines
        What else to say above the table, a paragraph each.
    """
    side = {0: 300, 1: 300, 2: 220}.get(len(methods), 170)  # what fits a screen's width
    heads = "".join(
        f'<th class="group">{_text(method)}: mask</th><th>foreground</th>' for method in methods
    )
    body = "\n".join(_row(row, side) for row in rows)
    paragraphs = "\n".join(f"<p>{_text(line)}</p>" for line in lines)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{_text(title)}</title>\n<style>{_STYLE}td > div {{ width: {side}px; }}</style>\n"
        "</head>\n<body>\n"
        f"<h1>{_text(title)}</h1>\n{paragraphs}\n"
        f"<table>\n<thead><tr><th>image</th>{heads}</tr></thead>\n<tbody>\n{body}\n"
        "</tbody>\n</table>\n</body>\n</html>\n"
    )


def _row(row: Row, side: int) -> str:
    name = f'<div class="name">{_text(row.key)}</div>'
    if row.image is None:
        first = f'<div class="none">{_text(row.note)}</div>{name}'
    else:
        image = _img(row.image, f"image {row.key}", side)
        first = f'{image}{name}<div class="note">{_text(row.note)}</div>'
    panels = "".join(_panel(row.key, panel, side) for panel in row.panels)
    return f"<tr><td>{first}</td>{panels}</tr>"


def _panel(key: str, panel: Panel, side: int) -> str:
    if panel.mask is None:
        return f'<td class="group"><div class="none">{_text(panel.note)}</div></td><td></td>'
    mask = _img(panel.mask, f"mask of {key}", side)
    if panel.foreground is None:
        foreground = '<div class="none">no image to cut out</div>'
    else:
        foreground = _img(panel.foreground, f"foreground of {key}", side)
    note = f'<div class="note">{_text(panel.note)}</div>'
    return f'<td class="group">{mask}{note}</td><td>{foreground}</td>'


def _img(picture: np.ndarray, description: str, side: int) -> str:
    """Return an img element that carries its picture: a photograph as JPEG, a mask as PNG.

    Shown with a long side of at most `side`; a sharper screen uses the pixels beyond.
    """
    buffer = io.BytesIO()
    if picture.ndim == 3:
        kind = "jpeg"
        Image.fromarray(picture).save(buffer, "JPEG", quality=88)
    else:
        kind = "png"
        Image.fromarray(picture).save(buffer, "PNG", optimize=True)
    code = base64.b64encode(buffer.getvalue()).decode()
    scale = min(1.0, side / max(picture.shape[:2]))
    height, width = (max(1, round(length * scale)) for length in picture.shape[:2])
    return (
        f'<img src="data:image/{kind};base64,{code}" width="{width}" height="{height}" '
        f'alt="{_text(description)}" loading="lazy">'
    )


def _text(text: str) -> str:
    return html.escape(printable(text))
