"""Against the formulas written plainly."""

import numpy as np
import pytest
from skimage.color import rgb2lab

from saliency.regions.colour import lab_of_means
from tests.saliency.regions.whole_images import lab_epfl, lab_split


@pytest.fixture(scope="module")
def every_level():
    """An image with random colours, all grays and the corners of the cube."""
    rng = np.random.default_rng(1)
    image = rng.integers(0, 256, (32, 64, 3)).astype(np.uint8)
    image[:4] = np.arange(256, dtype=np.uint8).reshape(4, 64, 1)
    image[4, :8] = [[r, g, b] for r in (0, 255) for g in (0, 255) for b in (0, 255)]
    return image


def test_split_lab_follows_rgb2lab_h(every_level):
    c = every_level / 255
    r, g, b = np.moveaxis(np.where(c > 0.04045, ((c + 0.055) / 1.055) ** 2.2, c / 12.92), -1, 0)
    x = np.clip(0.4124 * r + 0.3576 * g + 0.1805 * b, 0, 0.9505) / 0.9505
    y = np.clip(0.2126 * r + 0.7152 * g + 0.0722 * b, 0, 1)
    z = np.clip(0.0193 * r + 0.1192 * g + 0.9505 * b, 0, 1.089) / 1.089
    fx, fy, fz = (np.where(t > 0.008856, np.cbrt(t), 7.787 * t + 16 / 116) for t in (x, y, z))
    expected = np.float32([116 * fy - 16, 500 * (fx - fy), 200 * (fy - fz)])
    ours = lab_split(every_level)
    assert (ours == ours.astype(np.float32)).all()
    np.testing.assert_allclose(ours, expected, rtol=0, atol=2e-5)  # an ulp of float32 near 100
    assert (np.abs(ours - expected) < 1e-12).mean() > 0.999  # the noise of gray in a and b


def test_epfl_lab_is_cie_lab(every_level):
    expected = np.moveaxis(rgb2lab(every_level), -1, 0)  # another matrix in the fourth digit
    np.testing.assert_allclose(lab_epfl(every_level), expected, atol=0.02)


def test_means_lab_of_white_and_black():
    lab = lab_of_means(np.array([[255.0, 255, 255], [0, 0, 0]]))
    np.testing.assert_allclose(lab, [[100, 0, 0], [0, 0, 0]], atol=0.01)


def test_means_lab_scale_of_mc_is_left_alone():
    rgb = np.array([[10.0, 120, 200]])
    assert not np.allclose(lab_of_means(rgb, 2.222, 1.0), lab_of_means(rgb, 2.222, 255.0), atol=1)


def test_means_lab_golden(golden):
    for case in golden:
        np.testing.assert_allclose(
            lab_of_means(case.values["meanRgb"]), case.values["meanLab"], rtol=1e-9, atol=1e-9
        )
