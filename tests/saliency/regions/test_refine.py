import cv2
import numpy as np
import pytest

from data.errors import UserError
from saliency.maps import saliency_maps
from saliency.regions.refine import check_contrib, refine


def test_a_coarse_map_takes_the_shape_of_the_object(disc):
    image, inside = disc
    coarse = np.zeros(inside.shape, np.float32)
    coarse[28:92, 48:112] = 1  # a square around the disc
    corners = coarse.astype(bool) & ~inside
    fine = refine(coarse, image)
    assert fine.dtype == np.float32 and fine.min() >= 0 and fine.max() <= 1
    assert fine[inside].mean() - fine[corners].mean() > 0.3


def test_constant_maps_stay(disc):
    for value in (0.0, 0.5, 1.0):
        flat = np.full(disc[1].shape, value, np.float32)
        np.testing.assert_allclose(refine(flat, disc[0]), flat, atol=1e-5)


def test_edges_of_superpixels_melt(disc):
    plain = saliency_maps(disc[0], ("gs",), "60")
    fine = saliency_maps(disc[0], ("gs",), "60", follow_edges=True)
    plain, fine = (np.abs(maps["gs"] - disc[1]) for maps in (plain, fine))
    assert not np.array_equal(plain, fine)
    assert fine.mean() < plain.mean() + 0.05


def test_an_opencv_without_contrib_is_named(monkeypatch):
    check_contrib()
    monkeypatch.delattr(cv2, "ximgproc")
    with pytest.raises(UserError, match="opencv-contrib-python-headless"):
        check_contrib()
