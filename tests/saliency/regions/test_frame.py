import numpy as np
import pytest

import saliency
from saliency.maps import saliency_maps
from saliency.regions.frame import inside_frame, sobel_edges


def framed(disc, width):
    image = np.where(disc[1][..., None], (200, 60, 50), (60, 140, 70)).astype(np.uint8)
    return np.pad(image, ((width, width), (width, width), (0, 0)), constant_values=250)


def test_frame_is_found(disc):
    rows, columns = inside_frame(framed(disc, 12))
    assert 11 <= rows.start <= 13 and 11 <= 120 + 24 - rows.stop <= 13
    assert 11 <= columns.start <= 13 and 11 <= 160 + 24 - columns.stop <= 13


@pytest.mark.parametrize("widths", [(5, 5, 5, 5), (4, 7, 12, 20), (29, 3, 6, 15)])
def test_the_frame_goes_with_its_innermost_line(widths):
    """Thinned, the edge of a frame of n lines is its line n: rows and columns after it stay."""
    top, bottom, left, right = widths
    image = np.full((150, 200, 3), 250, np.uint8)
    image[top : 150 - bottom, left : 200 - right] = 60
    edges = sobel_edges(image)
    rows = np.flatnonzero(edges.mean(axis=1) > 0.6)
    columns = np.flatnonzero(edges.mean(axis=0) > 0.6)
    assert len(rows) == len(columns) == 2  # a line on each side
    within = inside_frame(image)
    assert within == (slice(rows[0] + 1, rows[1]), slice(columns[0] + 1, columns[1]))
    assert abs(within[0].start - top) <= 1 and abs(150 - within[0].stop - bottom) <= 1
    assert abs(within[1].start - left) <= 1 and abs(200 - within[1].stop - right) <= 1


def test_sides_without_a_frame_lose_as_much_as_the_widest():
    image = np.full((150, 200, 3), 60, np.uint8)
    image[:10] = 250
    rows, columns = inside_frame(image)
    width = rows.start
    assert 10 <= width <= 11
    assert (rows, columns) == (slice(width, 150 - width), slice(width, 200 - width))


def test_photograph_has_none(disc):
    assert inside_frame(disc[0]) == (slice(0, 120), slice(0, 160))


def test_small_image_is_left_alone():
    assert inside_frame(np.zeros((40, 200, 3), np.uint8)) == (slice(0, 40), slice(0, 200))


def test_frame_gets_zero_and_the_inside_its_own_map(disc):
    image = framed(disc, 12)
    whole = saliency_maps(image, ("rbd",), remove_frame=True)["rbd"]
    within = inside_frame(image)
    assert whole.shape == image.shape[:2]
    outside = np.ones_like(whole, bool)
    outside[within] = False
    assert not whole[outside].any()
    assert (whole[within] == saliency.rbd(image[within])).all()
