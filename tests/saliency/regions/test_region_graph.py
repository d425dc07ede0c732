import numpy as np

from saliency.regions.region_graph import RegionGraph, gaussian_weight


def test_golden_intermediates(golden):
    for case in golden:
        graph, theirs = RegionGraph.of(case.image), case.values
        boundary = np.isin(np.arange(len(graph.lab)) + 1, theirs["bdIds"])
        assert (graph.adjacent == theirs["adj"]).all(), case.name
        assert (graph.boundary == boundary).all(), case.name
        for ours, name in (
            (graph.mean_rgb, "meanRgb"),
            (graph.lab, "meanLab"),
            (graph.mean_position, "meanPos"),
            (graph.clip, "clipVal"),
            (graph.geodesic_sigma, "geoSigma"),
            (graph.neighbour_sigma, "neiSigma"),
        ):
            np.testing.assert_allclose(
                ours, theirs[name], rtol=1e-9, atol=1e-9, err_msg=f"{case.name} {name}"
            )


def test_scales_where_a_hundredth_of_the_pairs_is_none(disc):
    graph = RegionGraph.of(disc[0], pixels_per_superpixel=120 * 160 / 6)
    assert np.isnan(graph._smallest_steps[2])
    assert 5 <= graph.geodesic_sigma <= 10
    assert 0 <= graph.neighbour_sigma <= 20


def test_gaussian_weight_is_zero_beyond_three_sigma():
    distance = np.array([[0.0, 2.0, 6.0, 6.0001, np.inf]])
    np.testing.assert_allclose(
        gaussian_weight(distance, 2.0), [[1, np.exp(-0.5), np.exp(-4.5), 0, 0]]
    )


def test_gaussian_weight_without_width_tells_equal_from_different():
    assert (gaussian_weight(np.array([[0.0, 1e-3]]), 0.0) == [[1, 0]]).all()
