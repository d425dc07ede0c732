import numpy as np

from saliency.methods import gs as geodesic
from saliency.regions.region_graph import RegionGraph
from saliency.regions.superpixels import paint


def test_golden_maps(golden):
    for case in golden:
        graph = RegionGraph.of(case.image)
        ours = geodesic.superpixel_saliency(graph)
        np.testing.assert_allclose(ours, case.values["gs"], atol=1e-9, err_msg=case.name)
        map8 = paint(graph.superpixels, np.floor(ours * 255 + 0.5))
        assert np.abs(map8 - case.values["gs8"]).max() <= 1, case.name


def test_disc_stands_out(disc):
    image, inside = disc
    graph = RegionGraph.of(image)
    saliency = paint(graph.superpixels, geodesic.superpixel_saliency(graph))
    assert saliency[inside].mean() > 0.9
    assert saliency[~inside].mean() < 0.1


def test_object_at_the_edge_is_no_background():
    rng = np.random.default_rng(11)
    image = np.full((150, 200, 3), (70, 120, 90)) + rng.integers(-3, 4, (150, 200, 3))
    image[90:, 80:110] = (220, 40, 40)  # stands on the lower edge
    graph = RegionGraph.of(image.astype(np.uint8))
    background = paint(graph.superpixels, geodesic.background_boundary(graph))
    assert not background[140, 95]
    assert background[5, 5] and background[140, 20]


def test_fewer_superpixels_than_the_authors_code_survives(disc):
    graph = RegionGraph.of(disc[0], pixels_per_superpixel=120 * 160 / 9)
    assert len(graph.lab) < 25
    saliency = geodesic.superpixel_saliency(graph)
    assert saliency.min() == 0 and 0.99 < saliency.max() <= 1
