"""RBD: saliency optimisation from robust background detection (Zhu et al., CVPR 2014).

A region that is background touches the image's boundary along much of its own perimeter. Boundary
connectivity measures that, weights the contrast of regions by it, and a quadratic optimisation
joins background, foreground and smoothness into one map. The steps and constants are those of the
authors' code, which differ from the paper's text in places; the paper's are noted where they do.
"""

import numpy as np
from numba import njit
from scipy.linalg import cho_factor, cho_solve

from saliency.maps import Context
from saliency.methods.protocol import PixelSettings
from saliency.regions.region_graph import (
    RegionGraph,
    all_pairs_within,
    gaussian,
    gaussian_weight,
    min_max,
)
from saliency.regions.superpixels import distances

_SPATIAL_SIGMA = 0.4  # of positions in [0, 1]; the paper writes .25
_SURE_BACKGROUND = 3.0  # boundary connectivity above which
_SURE_WEIGHT = 1000.0  # the background term becomes a constraint (not in the paper)
_BACKGROUND_LAMBDA = 5.0  # not in the paper
_SMOOTHNESS = 0.1  # mu, paper equation 10


def boundary_connectivity(graph: RegionGraph) -> np.ndarray:
    """Boundary connectivity of each superpixel, float64 (N,), >= 0 (paper equations 3 to 6).

    Length along the boundary over the square root of the area, both counted softly over the
    superpixels that are geodesically near.
    """
    sigma = graph.geodesic_sigma
    geodesic = all_pairs_within(graph.geodesic_edge, 3 * sigma)
    near = gaussian_weight(geodesic, sigma)
    area = near.sum(axis=1)
    length = near[:, graph.boundary].sum(axis=1)
    return length / np.sqrt(area)


def background_probability(connectivity: np.ndarray) -> np.ndarray:
    """Probability of background, float64 (N,) in [0, 1) (paper equation 8, sigma 1)."""
    return 1.0 - np.exp(-(connectivity**2) / 2.0)


def background_weighted_contrast(graph: RegionGraph, probability: np.ndarray) -> np.ndarray:
    """Contrast to probable background, float64 (N,) in [0, 1] (paper equation 7).

    Below Otsu's threshold it is 0 (not in the paper).
    """
    near = gaussian_weight(distances(graph.mean_position), _SPATIAL_SIGMA)
    near *= graph.colour_distance
    contrast = min_max(near @ probability)
    contrast[contrast < otsu_threshold(contrast)] = 0.0
    return contrast


@njit(cache=True, error_model="numpy")
def otsu_threshold(values):
    """Otsu's threshold of float64 values in [0, 1], over 256 bins, as by `graythresh`."""
    histogram = np.zeros(256)
    for value in values:
        histogram[int(np.floor(255 * value + 0.5))] += 1
    probability = histogram / values.size
    omega = np.cumsum(probability)
    mu = np.cumsum(probability * np.arange(1, 257))
    largest, bins, count = -np.inf, 0, 0
    for i in range(256):
        between = (mu[-1] * omega[i] - mu[i]) ** 2 / (omega[i] * (1 - omega[i]))
        if np.isfinite(between) and between > largest:
            largest, bins, count = between, 0, 0
        if between == largest:
            bins += i
            count += 1
    return bins / count / 255 if count else 0.0


def optimise(graph: RegionGraph, connectivity: np.ndarray, contrast: np.ndarray) -> np.ndarray:
    """Minimise the quadratic cost of paper equation 9; float64 (N,), about [0, 1]."""
    background = np.where(
        connectivity > _SURE_BACKGROUND, _SURE_WEIGHT, background_probability(connectivity)
    )
    smooth = _smoothness(
        *(graph.colour_distance, graph.within_two, graph.boundary, graph.contacts),
        graph.neighbour_sigma,
    )
    system = -smooth
    system[np.diag_indices_from(system)] += (
        smooth.sum(axis=1) + _BACKGROUND_LAMBDA * background + contrast
    )
    # Symmetric: its transpose is the same in LAPACK's order, and need not be copied.
    factor = cho_factor(system.T, lower=True, overwrite_a=True, check_finite=False)
    return cho_solve(factor, contrast, check_finite=False)


@njit(cache=True)
def _smoothness(distance, within_two, boundary, contacts, sigma):
    """Weights of the smoothness term (paper equation 10), float64 (N, N), symmetric.

    Between superpixels within two steps, and within the boundary. In the authors' matrix a contact
    counts twice where each of the two superpixels somewhere lies left of or above the other, and
    once where only one does.
    """
    smooth = np.zeros(distance.shape)
    for i in range(len(smooth)):
        for j in range(i + 1):
            if within_two[i, j] or (boundary[i] and boundary[j]):
                smooth[i, j] = gaussian(distance[i, j], sigma)
                smooth[i, j] += _SMOOTHNESS * (contacts[i, j] + contacts[j, i])
                smooth[j, i] = smooth[i, j]
    return smooth


def superpixel_saliency(graph: RegionGraph) -> np.ndarray:
    """RBD's saliency of each superpixel, float64 (N,) in [0, 1]."""
    connectivity = boundary_connectivity(graph)
    contrast = background_weighted_contrast(graph, background_probability(connectivity))
    return min_max(optimise(graph, connectivity, contrast))


def compute(context: Context, settings: PixelSettings) -> np.ndarray:
    """Return RBD's map, float32 (H, W) in [0, 1]."""
    return context.paint(context.graph.superpixels, superpixel_saliency(context.graph))
