"""Fusion: RBD, MC and GS joined by cellular automata (Qin et al., CVPR 2015).

Each map is evened out within like superpixels by the paper's single-layer automaton; then the maps
are the layers of its multi-layer automaton, in which a cell that most layers find salient becomes
so in all of them. Neither is trained.

MC's superpixels are not those of RBD and GS. So every map is averaged over both kinds, which makes
six layers, and the cells of the joint automaton are the overlaps: what all layers agree on lies in
both.
"""

import numpy as np

from saliency.maps import Context
from saliency.methods import gs, mc, rbd
from saliency.methods.protocol import PixelSettings
from saliency.methods.rbd import otsu_threshold
from saliency.regions import superpixels as regions
from saliency.regions.colour import lab_of_means
from saliency.regions.region_graph import min_max

_SIGMA2 = 0.1  # sigma_3^2 of the impact factor, for Lab with each channel stretched to [0, 1]
_INERTIA, _LEAST_INERTIA = 0.6, 0.2  # a and b of the coherence matrix
_STEPS = 10  # of an automaton of one layer; the paper has 20: docs/saliency.md compares
_EVIDENCE = 0.15  # ln(lambda / (1 - lambda)), as in the paper
_JOINT_STEPS = 5
_LEAST_PROBABILITY = 0.01  # log odds are finite within it
_BORDER_PIXELS = 8


def evened(layers: np.ndarray, lab: np.ndarray, linked: np.ndarray) -> np.ndarray:
    """Run the single-layer automaton on each layer, float64 (N, M).

    lab : float64 (N, 3), of the superpixels' mean colours.
    linked : bool (N, N), symmetric; the diagonal does not count.

    A superpixel's next saliency is its own, weighted by its coherence, and its neighbours',
    weighted by their likeness in colour. Each layer is stretched to [0, 1].
    """
    low, high = lab.min(axis=0), lab.max(axis=0)
    colour = (lab - low) / np.maximum(high - low, np.finfo(float).eps)
    i, j, distance = regions.linked_distances(colour, linked)
    impact = np.zeros(linked.shape)
    impact[i, j] = impact[j, i] = np.exp(-distance / _SIGMA2)
    alone = ~impact.any(axis=1)
    impact[alone, alone] = 1.0
    coherence = _INERTIA * min_max(1 / impact.max(axis=1)) + _LEAST_INERTIA
    spread = (1 - coherence)[:, None] * impact / impact.sum(axis=1, keepdims=True)
    for _ in range(_STEPS):
        layers = coherence[:, None] * layers + spread @ layers
    return np.stack([min_max(layer) for layer in layers.T], axis=1)


def joined(layers: np.ndarray) -> np.ndarray:
    """Run the multi-layer automaton, float64 (N, M) in [0, 1] to (N,).

    A cell's log odds in a layer rise by `_EVIDENCE` for every other layer in which the cell lies
    above that layer's Otsu threshold, and fall for the others. The layers' mean is returned.
    """
    layers = layers.clip(_LEAST_PROBABILITY, 1 - _LEAST_PROBABILITY)
    threshold = np.array([otsu_threshold(layer) for layer in layers.T])
    odds = np.log(layers / (1 - layers))
    for _ in range(_JOINT_STEPS):
        vote = np.sign(layers - threshold)
        odds += _EVIDENCE * (vote.sum(axis=1, keepdims=True) - vote)
        layers = 1 / (1 + np.exp(-odds))
    return layers.mean(axis=1)


def compute(context: Context, settings: PixelSettings) -> np.ndarray:
    """Return the joint map, float32 (H, W) in [0, 1]."""
    graph, others = context.graph, context.superpixels
    area = regions.overlaps(graph.superpixels, others)
    over = area / area.sum(axis=1, keepdims=True)  # means over RBD's superpixels, of MC's
    under = (area / area.sum(axis=0)).T

    chain = mc.superpixel_saliency(others, context.image)
    first = np.stack([rbd.superpixel_saliency(graph), gs.superpixel_saliency(graph)], axis=1)
    both = np.column_stack([first, over @ chain])
    both = evened(both, graph.lab, graph.within_two | graph.boundary_pairs)
    edge = regions.border(others, _BORDER_PIXELS)
    links = regions.two_ring(mc.linked(others)) | np.outer(edge, edge)
    lab = lab_of_means(regions.mean_rgb(others, context.image))
    second = evened(np.column_stack([under @ first, chain]), lab, links)

    rows, columns = np.nonzero(area)
    cells = np.zeros(area.shape)
    cells[rows, columns] = joined(np.column_stack([both[rows], second[columns]]))
    return regions.paint_overlaps(graph.superpixels, others, cells.astype(np.float32))
