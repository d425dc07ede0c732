"""The background challenge's variants, pixel by pixel on hand-made images."""

import numpy as np
import pytest

from evaluate.variants import alone, mixed, tile_box

# 5 x 6: the background counts its pixels, the foreground is an L of value 200 and up
IMAGE = np.arange(30, dtype=np.uint8).reshape(5, 6)
MASK = np.zeros((5, 6), bool)
MASK[1, 2] = MASK[2, 2] = MASK[2, 3] = True
IMAGE = np.where(MASK, IMAGE + 200, IMAGE)
COLOUR = np.repeat(IMAGE[..., None], 3, axis=2)


def plane(picture):
    assert picture.dtype == np.uint8 and picture.shape == (5, 6, 3)
    assert (picture == picture[..., :1]).all()
    return picture[..., 0].tolist()


def test_variants_alone():
    found = alone(COLOUR, MASK)
    assert plane(found["original"]) == IMAGE.tolist()
    assert plane(found["only_fg"]) == [
        [0, 0, 0, 0, 0, 0],
        [0, 0, 208, 0, 0, 0],
        [0, 0, 214, 215, 0, 0],
        [0, 0, 0, 0, 0, 0],
        [0, 0, 0, 0, 0, 0],
    ]
    assert plane(found["no_fg"]) == [
        [0, 1, 2, 3, 4, 5],
        [6, 7, 0, 9, 10, 11],
        [12, 13, 0, 0, 16, 17],
        [18, 19, 20, 21, 22, 23],
        [24, 25, 26, 27, 28, 29],
    ]
    assert plane(found["only_bg_b"]) == [
        [0, 1, 2, 3, 4, 5],
        [6, 7, 0, 0, 10, 11],
        [12, 13, 0, 0, 16, 17],
        [18, 19, 20, 21, 22, 23],
        [24, 25, 26, 27, 28, 29],
    ]
    # the strip below starts 18 19 / 24 25, and is tiled from the box's corner
    assert plane(found["only_bg_t"]) == [
        [0, 1, 2, 3, 4, 5],
        [6, 7, 18, 19, 10, 11],
        [12, 13, 24, 25, 16, 17],
        [18, 19, 20, 21, 22, 23],
        [24, 25, 26, 27, 28, 29],
    ]


def test_thin_strip_is_repeated():
    image = np.arange(16, dtype=np.uint8).reshape(4, 4)
    mask = np.zeros((4, 4), bool)
    mask[:, 1:] = True  # a column is left
    filled = tile_box(np.repeat(image[..., None], 3, axis=2), mask)[..., 0]
    assert filled.tolist() == [[0] * 4, [4] * 4, [8] * 4, [12] * 4]


def test_mixed_takes_the_foreground_and_anothers_background():
    background = np.full((5, 6, 3), 7, np.uint8)
    assert plane(mixed(COLOUR, MASK, background)) == [
        [7, 7, 7, 7, 7, 7],
        [7, 7, 208, 7, 7, 7],
        [7, 7, 214, 215, 7, 7],
        [7, 7, 7, 7, 7, 7],
        [7, 7, 7, 7, 7, 7],
    ]


@pytest.mark.parametrize("name", ["only_fg", "no_fg", "only_bg_b", "only_bg_t"])
def test_inputs_stay_as_they_are(name):
    image, mask = COLOUR.copy(), MASK.copy()
    alone(image, mask)[name][:] = 1
    assert (image == COLOUR).all() and (mask == MASK).all()
