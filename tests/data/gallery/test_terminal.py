"""Half blocks show two pixels a character."""

import re

import numpy as np

from data.gallery import Cell, Row
from data.gallery.terminal import half_blocks, row_as_text


def test_each_character_is_two_pixels():
    image = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
    cells = re.findall(
        r"\x1b\[38;2;(\d+);(\d+);(\d+);48;2;(\d+);(\d+);(\d+)m▀", half_blocks(image, 9)
    )
    assert [list(map(int, cell)) for cell in cells] == [
        [*image[0, x], *image[1, x]] for x in range(3)
    ]


def test_fits_the_terminal():
    lines = half_blocks(np.zeros((300, 400, 3), np.uint8), 80).splitlines()
    assert len(lines) == 30
    assert all(line.count("▀") == 80 and line.endswith("\x1b[0m") for line in lines)
    assert half_blocks(np.zeros((1, 400, 3), np.uint8), 80).count("▀") == 80


def test_a_row_has_its_pictures_and_its_captions():
    gray, colour = np.zeros((40, 30), np.uint8), np.zeros((20, 30, 3), np.uint8)
    row = Row("a.jpg", [Cell(colour, "30 x 20"), Cell(gray, "covers 20%"), Cell(None, "failed")])
    lines = row_as_text(row, 60).splitlines()
    assert len(lines) == 21 and all(line.count("▀") == 60 for line in lines[:20])
    assert lines[20] == "a.jpg  30 x 20  covers 20%  failed"
    assert row_as_text(Row("b.jpg", [Cell(None, "failed")]), 60) == "b.jpg  failed"
