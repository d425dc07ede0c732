"""Text in matplotlib's figures, in lines that are not cut at their borders."""

from __future__ import annotations

from data.gallery.lettering import load_font, wrap
from data.keys import printable


def in_lines(text: str, inches: float, points: int) -> str:
    """Break a text into lines of at most `inches`, in letters of `points`; all of it stays.

    Draw it with `parse_math=False`: names may hold a `$`.
    """
    return "\n".join(wrap(printable(text), int(inches * 72), load_font(points)))


def add_legend(axes, points: int, **options) -> None:
    """Add a legend whose labels fit beside their lines, however long they are."""
    handles, labels = axes.get_legend_handles_labels()
    inches = 0.8 * axes.get_position().width * axes.figure.get_figwidth()
    shown = [in_lines(label, inches, points) for label in labels]
    legend = axes.legend(handles, shown, fontsize=points, **options)
    for text in legend.get_texts():
        text.set_parse_math(False)
