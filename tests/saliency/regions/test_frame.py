import numpy as np
from saliency.unsupervised import saliency_maps

import saliency
from saliency.regions.frame import inside_frame


def framed(disc, width):
    image = np.where(disc[1][..., None], (200, 60, 50), (60, 140, 70)).astype(np.uint8)
    return np.pad(image, ((width, width), (width, width), (0, 0)), constant_values=250)


def test_frame_is_found(disc):
    rows, columns = inside_frame(framed(disc, 12))
    assert 11 <= rows.start <= 13 and 11 <= 120 + 24 - rows.stop <= 13
    assert 11 <= columns.start <= 13 and 11 <= 160 + 24 - columns.stop <= 13


def test_photograph_has_none(disc):
    assert inside_frame(disc[0]) == (slice(0, 120), slice(0, 160))


def test_small_image_is_left_alone():
    assert inside_frame(np.zeros((40, 200, 3), np.uint8)) == (slice(0, 40), slice(0, 200))


def test_frame_gets_zero_and_the_inside_its_own_map(disc):
    image = framed(disc, 12)
    whole = saliency_maps(image, ("rbd",), remove_frame=True).by_method["rbd"]
    within = inside_frame(image)
    assert whole.shape == image.shape[:2]
    outside = np.ones_like(whole, bool)
    outside[within] = False
    assert not whole[outside].any()
    assert (whole[within] == saliency.rbd(image[within])).all()
