"""Geodesic distances between superpixels."""

import numpy as np
from numba import njit, uintp


@njit(cache=True, error_model="numpy")
def _relax(row, through, length):
    for i in range(row.size):
        j = uintp(i)
        other = through[j] + length
        row[j] = other if other < row[j] else row[j]


@njit(cache=True)
def all_pairs_within(edge, limit):
    """Shortest path lengths between all pairs of nodes, exact up to `limit`.

    Parameters
    ----------
    edge : float64 (N, N)
        Symmetric non-negative lengths; inf where there is no edge.
    limit : float
        Lengths above it may come out too long, though never below it: RBD's weights are exactly 0
        there, so a path that is already longer needs no extension.

    Returns
    -------
    float64 (N, N)
        Symmetric, 0 on the diagonal.

    Notes
    -----
    Floyd and Warshall's algorithm. Through node k, only the rows within `limit` of k can still
    improve; on photographs that leaves a small part of the rows, and each is one vectorised pass.
    """
    n = edge.shape[0]
    d = edge.copy()
    for i in range(n):
        d[i, i] = 0.0
    for k in range(n):
        for i in range(n):
            if i != k and d[i, k] <= limit:
                _relax(d[i], d[k], d[i, k])
    return d


@njit(cache=True)
def from_sources(edge, source):
    """Shortest path length of each node from the nearest of the sources (Dijkstra, dense).

    Parameters
    ----------
    edge : float64 (N, N)
        As in `all_pairs_within`.
    source : bool (N,)

    Returns
    -------
    float64 (N,)
        0 at the sources, inf where no source can be reached.
    """
    n = edge.shape[0]
    d = np.where(source, 0.0, np.inf)
    done = np.zeros(n, np.bool_)
    for _ in range(n):
        nearest = -1
        for i in range(n):
            if not done[i] and d[i] < np.inf and (nearest < 0 or d[i] < d[nearest]):
                nearest = i
        if nearest < 0:
            break
        done[nearest] = True
        _relax(d, edge[nearest], d[nearest])
    return d
