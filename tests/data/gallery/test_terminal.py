"""Half blocks show two pixels a character."""

import re

import numpy as np

from data.gallery.terminal import half_blocks


def test_each_character_is_two_pixels():
    image = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
    found = re.findall(
        r"\x1b\[38;2;(\d+);(\d+);(\d+);48;2;(\d+);(\d+);(\d+)m▀", half_blocks(image, 9)
    )
    assert [list(map(int, cell)) for cell in found] == [
        [*image[0, x], *image[1, x]] for x in range(3)
    ]


def test_fits_the_terminal():
    lines = half_blocks(np.zeros((300, 400, 3), np.uint8), 80).splitlines()
    assert len(lines) == 30
    assert all(line.count("▀") == 80 and line.endswith("\x1b[0m") for line in lines)
    assert half_blocks(np.zeros((1, 400, 3), np.uint8), 80).count("▀") == 80
