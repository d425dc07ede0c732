"""MC: saliency detection via absorbing Markov chain (Jiang et al., ICCV 2013).

A random walk over the superpixels ends in virtual copies of those at the image's border. Similar
superpixels exchange the walker easily; a superpixel unlike the border holds it long. The time until
absorption is the saliency. Steps and constants are those of the authors' code (`GetMC.m`).
"""

import numpy as np
from scipy.linalg import cho_factor, cho_solve

from saliency.maps import Context
from saliency.methods.protocol import PixelSettings
from saliency.regions import superpixels as regions
from saliency.regions.colour import lab_of_means
from saliency.regions.region_graph import min_max
from saliency.regions.superpixels import Superpixels

_THETA = 10.0  # paper equation 2: w = exp(-theta d), d scaled to [0, 1]
_LEAST_WEIGHT = 1e-5
_OUTLIER = 1.1  # a row sum below: alike to nothing around it
_FRAME = 13.0  # likeness of border and inner ring above which the border is no picture frame
_SCATTERED = 2.0  # histogram score from which the second pass is made
_BRIGHT = 0.3


def superpixel_saliency(superpixels: Superpixels, image: np.ndarray) -> np.ndarray:
    """MC's saliency of each superpixel of a uint8 (H, W, 3) image, float64 (N,) in [0, 1]."""
    # The authors' colours are never divided by 255; see lab_of_means.
    lab = lab_of_means(regions.mean_rgb(superpixels, image), exponent=2.222, scale=1.0)
    neighbours = linked(superpixels)
    weight = affinity(lab, neighbours)
    border = regions.border(superpixels, 1)

    outlier = weight.sum(axis=1) < _OUTLIER
    inner_ring = neighbours & border[:, None] & ~border[None, :]
    absorbing, discarded = border, outlier
    if (weight * inner_ring).sum() <= _FRAME:  # a picture frame: absorb in the ring within it
        absorbing, discarded = inner_ring.any(axis=0), outlier | border
    kept = ~discarded
    saliency = np.zeros(len(lab))
    if not (kept & absorbing).any():
        return saliency
    saliency[kept] = absorbed_time(weight, absorbing, kept)
    # An outlier beside something bright belongs to it.
    ring = neighbours & ~np.eye(len(lab), dtype=bool)
    beside_bright = (ring & (saliency > _BRIGHT)[None, :]).any(axis=1)
    saliency[outlier & beside_bright] = 1.0
    return saliency


def linked(superpixels: Superpixels) -> np.ndarray:
    """Superpixels that touch, at corners too, or face each other on opposite borders: bool (N, N).

    True on the diagonal.
    """
    labels = superpixels.labels
    links = regions.contacts(superpixels, corners=True)
    links[labels[:, 0], labels[:, -1]] = True
    links[labels[0], labels[-1]] = True
    return links | links.T | np.eye(superpixels.count, dtype=bool)


def affinity(lab: np.ndarray, neighbours: np.ndarray) -> np.ndarray:
    """Weights of the graph, float64 (N, N): 1 on the diagonal, 0 beyond two steps (equation 2)."""
    i, j, distance = regions.linked_distances(lab, regions.two_ring(neighbours))
    weight = np.eye(len(lab))
    if len(distance):
        spread = distance.max() - distance.min()
        scaled = (distance - distance.min()) / spread if spread > 0 else np.zeros_like(distance)
        weight[i, j] = weight[j, i] = np.exp(-_THETA * scaled) + _LEAST_WEIGHT
    return weight


def absorbed_time(weight: np.ndarray, absorbing: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """Expected steps until absorption, scaled to [0, 1] (paper equations 5 and 7).

    weight : float64 (N, N), symmetric, of all superpixels.
    absorbing : bool (N,), superpixels that have an absorbing copy.
    kept : bool (N,), the M transient nodes; a walker that steps on another node is gone.

    Returns float64 (M,) in [0, 1].
    """
    degree = weight.sum(axis=1)[kept]
    with_copies = degree + weight.compress(absorbing, axis=1).sum(axis=1)[kept]
    # y = (I - D^-1 W)^-1 u, multiplied by D on the left: symmetric positive definite.
    system = -(weight if kept.all() else weight[np.ix_(kept, kept)])
    system[np.diag_indices_from(system)] += with_copies
    factor = cho_factor(system.T, lower=True, overwrite_a=True, check_finite=False)  # no copy
    time = min_max(cho_solve(factor, with_copies, check_finite=False))
    if _histogram_score(time) >= _SCATTERED:
        # Weigh each visit by 1 / equilibrium: long stays in large even regions count less.
        time = min_max(cho_solve(factor, with_copies / degree, check_finite=False))
    return time


def _histogram_score(values: np.ndarray) -> float:
    """How far values in [0, 1] lie from its ends: 1 (all at the ends) to 5 (all in the middle)."""
    share = np.histogram(values, bins=10, range=(0.0, 1.0))[0] / len(values)
    k = np.arange(1, 11)
    return float(share @ np.minimum(k, 11 - k))


def compute(context: Context, settings: PixelSettings) -> np.ndarray:
    """Return MC's map, float32 (H, W) in [0, 1]."""
    saliency = superpixel_saliency(context.superpixels, context.image)
    return context.paint(context.superpixels, saliency)
