"""RBD: saliency optimisation from robust background detection (Zhu et al., CVPR 2014).

A region that is background touches the image's boundary along much of its own perimeter. Boundary
connectivity measures that, weights the contrast of regions by it, and a quadratic optimisation
joins background, foreground and smoothness into one map. The steps and constants are those of the
authors' code, which differ from the paper's text in places; the paper's are noted where they do.
"""

import numpy as np
from scipy.linalg import cho_factor, cho_solve

from saliency.maps import Context
from saliency.methods.protocol import PixelSettings
from saliency.regions.region_graph import RegionGraph, all_pairs_within, gaussian_weight, min_max
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
    contrast = min_max((graph.colour_distance * near) @ probability)
    contrast[contrast < otsu_threshold(contrast)] = 0.0
    return contrast


def otsu_threshold(values: np.ndarray) -> float:
    """Otsu's threshold of values in [0, 1], over 256 bins, as MATLAB's `graythresh` gives it."""
    histogram = np.bincount(np.floor(255 * values + 0.5).astype(int), minlength=256)
    probability = histogram / histogram.sum()
    omega = np.cumsum(probability)
    mu = np.cumsum(probability * np.arange(1, 257))
    with np.errstate(divide="ignore", invalid="ignore"):
        between = (mu[-1] * omega - mu) ** 2 / (omega * (1 - omega))
    largest = np.nanmax(between[np.isfinite(between)], initial=-np.inf)
    if not np.isfinite(largest):
        return 0.0
    return float(np.flatnonzero(between == largest).mean()) / 255


def optimise(graph: RegionGraph, connectivity: np.ndarray, contrast: np.ndarray) -> np.ndarray:
    """Minimise the quadratic cost of paper equation 9; float64 (N,), about [0, 1]."""
    background = np.where(
        connectivity > _SURE_BACKGROUND, _SURE_WEIGHT, background_probability(connectivity)
    )
    linked = graph.within_two | graph.boundary_pairs
    smooth = gaussian_weight(np.where(linked, graph.colour_distance, np.inf), graph.neighbour_sigma)
    # In the authors' matrix a contact counts twice where each of the two superpixels somewhere lies
    # left of or above the other, and once where only one does.
    smooth += _SMOOTHNESS * (graph.contacts.astype(float) + graph.contacts.T)
    system = -smooth
    system[np.diag_indices_from(system)] += (
        smooth.sum(axis=1) + _BACKGROUND_LAMBDA * background + contrast
    )
    # Symmetric: its transpose is the same in LAPACK's order, and need not be copied.
    factor = cho_factor(system.T, lower=True, overwrite_a=True, check_finite=False)
    return cho_solve(factor, contrast)


def superpixel_saliency(graph: RegionGraph) -> np.ndarray:
    """RBD's saliency of each superpixel, float64 (N,) in [0, 1]."""
    connectivity = boundary_connectivity(graph)
    contrast = background_weighted_contrast(graph, background_probability(connectivity))
    return min_max(optimise(graph, connectivity, contrast))


def compute(context: Context, settings: PixelSettings) -> np.ndarray:
    """Return RBD's map, float32 (H, W) in [0, 1]."""
    return context.paint(context.graph.superpixels, superpixel_saliency(context.graph))
