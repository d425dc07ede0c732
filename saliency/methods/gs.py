"""GS: geodesic saliency using background priors, superpixel version (Wei et al., ECCV 2012).

Background regions reach the image's boundary without crossing strong edges. The saliency of a
superpixel is the length of its shortest path to the boundary, over colour differences.
"""

import numpy as np

from saliency.maps import Context
from saliency.methods.protocol import PixelSettings
from saliency.regions.region_graph import RegionGraph, from_sources, min_max
from saliency.regions.superpixels import distances


def background_boundary(graph: RegionGraph) -> np.ndarray:
    """Boundary superpixels that are background: bool (N,), a subset of `graph.boundary`.

    An object may touch the image's edge. A boundary superpixel whose colour differs even from the
    most similar others, near ones above all, is left out (paper section 3.2, "boundary analysis").
    """
    ids = np.flatnonzero(graph.boundary)
    apart = graph.colour_distance[np.ix_(ids, ids)]
    apart = apart / (1 + 3 * distances(graph.mean_position[ids]))
    np.fill_diagonal(apart, np.inf)
    wanted = int(len(graph.lab) / 200 * 5 + 0.5)
    nearest = max(1, min(wanted, len(ids) - 1))  # the authors' code fails below 20 superpixels
    if len(ids) < 2:
        return graph.boundary.copy()
    difference = np.sort(apart, axis=1)[:, :nearest].mean(axis=1)
    background = graph.boundary.copy()
    if difference.max() - difference.min() > 1:
        background[ids] = min_max(difference) <= 0.5
    return background


def superpixel_saliency(graph: RegionGraph) -> np.ndarray:
    """GS's saliency of each superpixel, float64 (N,) in [0, 1] (paper equation 1)."""
    length = from_sources(graph.geodesic_edge, background_boundary(graph))
    rank = max(1, int(0.02 * len(length) + 0.5))  # the authors' code fails below 25 superpixels
    bright = np.sort(length)[-rank]
    if bright == 0:
        bright = length.max()
    return min_max(np.minimum(length / bright, 1.0)) if bright > 0 else np.zeros_like(length)


def compute(context: Context, settings: PixelSettings) -> np.ndarray:
    """Return GS's map, float32 (H, W) in [0, 1]."""
    return context.paint(context.graph.superpixels, superpixel_saliency(context.graph))
