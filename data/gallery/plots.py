"""Curves and bars by Matplotlib."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from data.files import write_whole
from data.gallery.png import load_font, wrap
from data.keys import printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@contextlib.contextmanager
def plot(
    path: str | os.PathLike, width: float, height: float, columns: int = 1, dpi: int = 150
) -> Iterator[list[Axes]]:
    """Lend the axes of a figure of so many inches to the block, then write it as a PNG, whole."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    yield list(figure.subplots(1, columns, squeeze=False)[0])
    memory = io.BytesIO()
    figure.savefig(memory, dpi=dpi, format="png")
    write_whole(path, memory.getvalue())


def add_legend(axes: Axes, points: int, **options: Any) -> None:
    """Add a legend whose labels are whole, broken into lines that fit into the axes."""
    handles, labels = axes.get_legend_handles_labels()
    width = int(72 * 0.8 * axes.get_position().width * axes.figure.get_figwidth())
    shown = ["\n".join(wrap(printable(label), width, load_font(points))) for label in labels]
    legend = axes.legend(handles, shown, fontsize=points, **options)
    for text in legend.get_texts():
        text.set_parse_math(False)  # names may hold a `$`
