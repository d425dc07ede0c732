"""Plots: a PNG, whole, and legends whose text is whole."""

import pytest
from matplotlib.figure import Figure
from PIL import Image

from data.gallery.plots import add_legend, plot

LONG = "masks_of_a_$method_with_a_name_that_goes_on_and_on_and_on_and_on_and_on_and_on: max F 0.9"


def test_a_legend_is_no_wider_than_its_axes():
    figure = Figure(figsize=(10, 4), layout="constrained")
    axes, _ = figure.subplots(1, 2)
    axes.plot([0, 1], label=LONG)
    axes.plot([1, 0], label="short")
    add_legend(axes, 9)
    figure.canvas.draw()
    legend, around = axes.get_legend().get_window_extent(), axes.get_window_extent()
    assert around.x0 <= legend.x0 and legend.x1 <= around.x1
    drawn = [text.get_text() for text in axes.get_legend().get_texts()]
    assert drawn[0].replace("\n", "").replace(" ", "") == LONG.replace(" ", "")
    assert drawn[1] == "short"


def test_a_plot_is_a_png_of_its_size_or_nothing(tmp_path):
    with plot(tmp_path / "new" / "p.png", 4, 2, columns=2, dpi=50) as (left, right):
        left.plot([0, 1])
        right.plot([1, 0])
    assert Image.open(tmp_path / "new" / "p.png").size == (200, 100)
    with pytest.raises(ValueError, match="no"), plot(tmp_path / "other.png", 4, 2):
        raise ValueError("no")
    assert not (tmp_path / "other.png").exists()
