import numpy as np
import pytest

from saliency.methods import mc
from saliency.regions.slic import slic_epfl
from saliency.regions.superpixels import paint


def test_golden_maps(golden):
    for case in golden:
        superpixels = slic_epfl(case.image)
        values = np.floor(mc.superpixel_saliency(superpixels, case.image) * 255 + 0.5)
        difference = np.abs(paint(superpixels, values) - case.values["mc8"])
        assert difference.max() <= 1, case.name


@pytest.mark.parametrize("passes", [1, 2])
def test_absorbed_time_of_a_path(passes, monkeypatch):
    """A walker between two absorbing ends, simulated step by step."""
    monkeypatch.setattr(mc, "_SCATTERED", np.inf if passes == 1 else 0.0)
    n = 5
    weight = np.eye(n) + np.eye(n, k=1) * 0.5 + np.eye(n, k=-1) * 0.5
    absorbing = np.array([True, False, False, False, True])
    with_copies = weight.sum(1) + weight[:, absorbing].sum(1)
    reward = np.ones(n) if passes == 1 else 1 / weight.sum(1)
    expected = np.zeros(n)
    still_walking = np.eye(n)
    for _ in range(2000):
        expected += still_walking @ reward
        still_walking = still_walking @ (weight / with_copies[:, None])
    expected = (expected - expected.min()) / (expected.max() - expected.min())
    ours = mc.absorbed_time(weight, absorbing, np.ones(n, bool))
    np.testing.assert_allclose(ours, expected, atol=1e-9)


def test_disc_stands_out(disc):
    image, inside = disc
    superpixels = slic_epfl(image)
    saliency = paint(superpixels, mc.superpixel_saliency(superpixels, image))
    assert saliency[inside].mean() > 0.7
    assert saliency[~inside].mean() < 0.2


def test_frame_is_discarded():
    """An even border that is like the ring within it by too little counts as a frame."""
    rng = np.random.default_rng(12)
    image = rng.integers(100, 140, (240, 320, 3))
    image[:24], image[-24:], image[:, :24], image[:, -24:] = 0, 0, 0, 0
    image[90:150, 120:200] = (230, 60, 40)
    superpixels = slic_epfl(image.astype(np.uint8))
    saliency = paint(superpixels, mc.superpixel_saliency(superpixels, image.astype(np.uint8)))
    assert saliency[:8].max() == 0  # discarded, not merely dark
    assert saliency[120, 160] > 0.9


def test_links_join_opposite_borders():
    image = np.random.default_rng(13).integers(0, 256, (60, 90, 3)).astype(np.uint8)
    superpixels = slic_epfl(image, 40)
    links = mc.linked(superpixels)
    for y in (0, 30, 59):
        assert links[superpixels.labels[y, 0], superpixels.labels[y, -1]]
    assert (links == links.T).all()
