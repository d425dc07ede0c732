"""Against the authors' intermediates, and SciPy's shortest paths."""

import numpy as np
import pytest
from scipy.sparse import csr_array
from scipy.sparse.csgraph import dijkstra, shortest_path

from saliency.regions.region_graph import (
    RegionGraph,
    all_pairs_within,
    from_sources,
    gaussian_weight,
)


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


def random_graph(seed, n=60):
    rng = np.random.default_rng(seed)
    edge = np.where(rng.random((n, n)) < 0.08, rng.random((n, n)) * 4 + 1e-3, np.inf)
    edge = np.minimum(edge, edge.T)
    np.fill_diagonal(edge, np.inf)
    return edge


@pytest.mark.parametrize("seed", range(3))
def test_all_pairs(seed):
    edge = random_graph(seed)
    expected = shortest_path(csr_array(np.where(np.isinf(edge), 0, edge)), directed=False)
    np.testing.assert_allclose(all_pairs_within(edge, np.inf), expected)
    limited = all_pairs_within(edge, 5.0)
    near = expected <= 5.0
    np.testing.assert_allclose(limited[near], expected[near])
    assert (limited[~near] > 5.0).all()


def test_zero_edges_cost_nothing():
    edge = np.full((3, 3), np.inf)
    edge[0, 1] = edge[1, 0] = 0.0
    edge[1, 2] = edge[2, 1] = 2.0
    assert (all_pairs_within(edge, 9.0)[0] == [0, 0, 2]).all()


@pytest.mark.parametrize("seed", range(3))
def test_from_sources(seed):
    edge = random_graph(seed)
    source = np.zeros(len(edge), bool)
    source[[3, 17]] = True
    graph = csr_array(np.where(np.isinf(edge), 0, edge))
    expected = dijkstra(graph, directed=False, indices=[3, 17], min_only=True)
    np.testing.assert_allclose(from_sources(edge, source), expected)
