"""Against SciPy's shortest paths."""

import numpy as np
import pytest
from scipy.sparse import csr_array
from scipy.sparse.csgraph import dijkstra, shortest_path

from saliency.regions.shortest_paths import all_pairs_within, from_sources


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
