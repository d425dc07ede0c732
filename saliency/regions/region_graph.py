"""The graph of superpixels that RBD and GS share: its scales, and shortest paths within it."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numba import njit, uintp

from saliency.regions import superpixels as regions
from saliency.regions.colour import lab_of_means
from saliency.regions.slic import slic_split
from saliency.regions.superpixels import Superpixels

_LEAST_SIGMA = 1e-9
_BORDER_PIXELS = 8  # a superpixel that reaches into this band counts as boundary


@dataclass(frozen=True)
class RegionGraph:
    """N superpixels of an image, their colours and contacts.

    mean_rgb : float64 (N, 3) in [0, 255].
    lab : float64 (N, 3), of the mean colours.
    colour_distance : float64 (N, N), Euclidean in Lab.
    contacts : bool (N, N); entry (i, j): a pixel of i lies left of or above a pixel of j.
    boundary : bool (N,), those that reach into the outer 8 pixels.
    """

    superpixels: Superpixels
    mean_rgb: np.ndarray
    lab: np.ndarray
    colour_distance: np.ndarray
    contacts: np.ndarray
    boundary: np.ndarray

    @classmethod
    def of(cls, image: np.ndarray, pixels_per_superpixel: float = 600.0) -> "RegionGraph":
        """Segment an image, uint8 (H, W, 3) RGB, and build its graph."""
        superpixels = slic_split(image, pixels_per_superpixel)
        mean_rgb = regions.mean_rgb(superpixels, image)
        lab = lab_of_means(mean_rgb)
        return cls(
            superpixels=superpixels,
            mean_rgb=mean_rgb,
            lab=lab,
            colour_distance=regions.distances(lab),
            contacts=regions.contacts(superpixels),
            boundary=regions.border(superpixels, _BORDER_PIXELS),
        )

    @cached_property
    def adjacent(self) -> np.ndarray:
        """Superpixels that share a pixel side, and each with itself: bool (N, N)."""
        return self.contacts | self.contacts.T | np.eye(len(self.contacts), dtype=bool)

    @cached_property
    def mean_position(self) -> np.ndarray:
        """Mean (row, column) over the image's height and width; float64 (N, 2) in (0, 1]."""
        return regions.mean_position(self.superpixels)

    @cached_property
    def within_two(self) -> np.ndarray:
        """Neighbours, their neighbours and itself: bool (N, N)."""
        return regions.two_ring(self.adjacent)

    @cached_property
    def boundary_pairs(self) -> np.ndarray:
        """Pairs of boundary superpixels: bool (N, N). The image's border counts as connected."""
        return self.boundary[:, None] & self.boundary[None, :]

    @cached_property
    def _smallest_steps(self) -> tuple[float, float, float]:
        """(meanMin1, meanMin2, meanTop) of `EstimateDynamicParas.m`.

        The mean over superpixels of the smallest colour distance to a neighbour, the same within
        two steps, and the mean of the largest hundredth of the distances between neighbours; the
        last is nan where that hundredth is less than half a pair.
        """
        nearest1, nearest2, edges = _steps(self.colour_distance, self.adjacent, self.within_two)
        top = int(len(edges) * 0.01 + 0.5)
        largest = np.sort(edges)[len(edges) - top :]
        return (
            float(nearest1.mean()),
            float(nearest2.mean()),
            float(largest.mean()) if top else np.nan,
        )

    @property
    def clip(self) -> float:
        """Colour distance that counts as none: steps within a surface should cost nothing."""
        return self._smallest_steps[1]

    @property
    def geodesic_sigma(self) -> float:
        """Scale of the geodesic distances in boundary connectivity, in [5, 10]."""
        step, _, top = self._smallest_steps
        return max(5.0, float(np.nanmin([10.0, 3 * step, top / 10])))

    @property
    def neighbour_sigma(self) -> float:
        """Scale of the colour distances in the smoothness term, at most 20."""
        step, _, top = self._smallest_steps
        return float(np.nanmin([3 * step, 0.2 * top, 20.0]))

    @cached_property
    def geodesic_edge(self) -> np.ndarray:
        """Edge lengths max(0, colour distance - clip) on contacts and boundary pairs, else inf."""
        return _edges(self.colour_distance, self.adjacent, self.boundary, self.clip)


def min_max(values: np.ndarray) -> np.ndarray:
    """Scale to [0, 1] as the authors do, (v - min) / (max - min + eps): a constant gives 0."""
    low = values.min()
    return (values - low) / (values.max() - low + np.finfo(np.float64).eps)


@njit(cache=True, forceinline=True)
def gaussian(distance, sigma):
    """exp(-d^2 / (2 sigma^2)), exactly 0 beyond 3 sigma (`Dist2WeightMatrix.m`), for one distance.

    A sigma of 0, which an image of few flat colours can give, means: 1 where d is 0. There the
    authors' code divides 0 by 0.
    """
    sigma = max(sigma, _LEAST_SIGMA)
    return np.exp(-(distance**2) / (2 * sigma**2)) if distance <= 3 * sigma else 0.0


@njit(cache=True)
def gaussian_weight(distance, sigma):
    """`gaussian` of distances, float64 (N, M).

    A square matrix is taken to be symmetric within 3 sigma, and its lower half counts.
    """
    weight = np.empty(distance.shape)
    n, m = distance.shape
    for i in range(n):
        for j in range(i + 1 if n == m else m):
            weight[i, j] = gaussian(distance[i, j], sigma)
            if n == m:
                weight[j, i] = weight[i, j]
    return weight


@njit(cache=True)
def _edges(distance, adjacent, boundary, clip):
    """See `RegionGraph.geodesic_edge`."""
    edge = np.full(distance.shape, np.inf)
    for i in range(len(edge)):
        for j in range(len(edge)):
            if adjacent[i, j] or (boundary[i] and boundary[j]):
                edge[i, j] = max(distance[i, j] - clip, 0.0)
    return edge


@njit(cache=True)
def _steps(distance, adjacent, within_two):
    """The least distance of each node to a neighbour, and within two steps; that of every edge."""
    n = distance.shape[0]
    nearest1, nearest2 = np.full(n, np.inf), np.full(n, np.inf)
    edges = np.empty(n * (n - 1) // 2)
    count = 0
    for i in range(n):
        for j in range(i):
            if within_two[i, j]:  # neighbours too
                d = distance[i, j]
                nearest2[i], nearest2[j] = min(nearest2[i], d), min(nearest2[j], d)
                if adjacent[i, j]:
                    nearest1[i], nearest1[j] = min(nearest1[i], d), min(nearest1[j], d)
                    edges[count] = d
                    count += 1
    return nearest1, nearest2, edges[:count]


@njit(cache=True, error_model="numpy")
def _relax(row, through, length, other, other_length):
    """Shorten a row of path lengths by those through two nodes."""
    for i in range(row.size):
        j = uintp(i)
        d = min(through[j] + length, other[j] + other_length)
        row[j] = d if d < row[j] else row[j]


@njit(cache=True)
def all_pairs_within(edge, limit):
    """Shortest path lengths between all pairs of nodes, exact up to `limit`; float64 (N, N).

    edge : float64 (N, N), symmetric, non-negative; inf where there is no edge.
    limit : lengths above it may come out too long, though never below it: RBD's weights are exactly
        0 there, so a path that is already longer needs no extension.

    Floyd and Warshall's algorithm, d(i, j) = min(d(i, j), d(i, k) + d(k, j)) for one k after the
    other; of two k at a time, so that a row is loaded and stored once for both, and of the lower
    half, as d is symmetric. Only the rows within `limit` of a k can still improve.
    """
    n = edge.shape[0]
    d = edge.copy()
    for i in range(n):
        d[i, i] = 0.0
    one, two = np.empty(n), np.empty(n)  # the rows of both k, the second after the first
    for k in range(0, n, 2):
        m = min(k + 1, n - 1)
        for j in range(n):
            one[j] = d[max(j, k), min(j, k)]
        for j in range(n):
            two[j] = min(d[max(j, m), min(j, m)], one[m] + one[j])
        for i in range(n):
            if one[i] <= limit or two[i] <= limit:
                _relax(d[i, : i + 1], one, one[i], two, two[i])
    for i in range(n):
        for j in range(i):
            d[j, i] = d[i, j]
    return d


@njit(cache=True)
def from_sources(edge, source):
    """Shortest path length of each node from the nearest of the sources (Dijkstra, dense).

    edge : as in `all_pairs_within`.
    source : bool (N,).

    Returns float64 (N,): 0 at the sources, inf where no source can be reached.
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
        _relax(d, edge[nearest], d[nearest], edge[nearest], d[nearest])
    return d
