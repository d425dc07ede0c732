"""Text in figures stays within their borders."""

from matplotlib.figure import Figure

from evaluate.results import add_legend, in_lines

LONG = "masks_of_a_$method_with_a_name_that_goes_on_and_on_and_on_and_on_and_on_and_on: max F 0.9"


def test_lines_hold_all_of_a_text():
    lines = in_lines(LONG, 1.8, 9).split("\n")
    assert len(lines) > 1 and "".join(lines).replace(" ", "") == LONG.replace(" ", "")
    assert in_lines("short", 1.8, 9) == "short"


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
