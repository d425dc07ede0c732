import numpy as np
from skimage.filters import threshold_otsu

from saliency.methods import rbd
from saliency.regions.region_graph import RegionGraph
from saliency.regions.superpixels import paint


def test_golden_stages_and_maps(golden):
    for case in golden:
        graph, theirs = RegionGraph.of(case.image), case.values
        connectivity = rbd.boundary_connectivity(graph)
        probability = rbd.background_probability(connectivity)
        contrast = rbd.background_weighted_contrast(graph, probability)
        for ours, name in (
            (connectivity, "bdCon"),
            (probability, "bgProb"),
            (contrast, "wCtr"),
            (rbd.optimise(graph, connectivity, contrast), "rbd"),
        ):
            np.testing.assert_allclose(
                ours, theirs[name], rtol=1e-6, atol=1e-9, err_msg=f"{case.name} {name}"
            )
        ours = np.floor(rbd.superpixel_saliency(graph) * 255 + 0.5)
        difference = np.abs(paint(graph.superpixels, ours) - theirs["rbd8"])
        assert difference.max() <= 1, case.name


def test_optimum_has_no_gradient(disc):
    """The cost of equation 9, written as a sum, is stationary at the answer."""
    graph = RegionGraph.of(disc[0])
    connectivity = rbd.boundary_connectivity(graph)
    contrast = rbd.background_weighted_contrast(graph, rbd.background_probability(connectivity))
    best = rbd.optimise(graph, connectivity, contrast)
    background = np.where(connectivity > 3, 1000, rbd.background_probability(connectivity))
    weight = np.where(
        graph.within_two | graph.boundary_pairs,
        np.exp(-(graph.colour_distance**2) / (2 * graph.neighbour_sigma**2)),
        0,
    )
    weight[graph.colour_distance > 3 * graph.neighbour_sigma] = 0
    weight += 0.1 * (graph.contacts.astype(int) + graph.contacts.T)

    def cost(s):
        smooth = (weight * (s[:, None] - s[None]) ** 2).sum() / 2
        return (5 * background * s**2).sum() + (contrast * (s - 1) ** 2).sum() + smooth

    least = cost(best)
    rng = np.random.default_rng(9)
    for _ in range(5):
        assert cost(best + 1e-3 * rng.normal(size=len(best))) > least


def test_disc_stands_out(disc):
    image, inside = disc
    graph = RegionGraph.of(image)
    saliency = paint(graph.superpixels, rbd.superpixel_saliency(graph))
    assert saliency[inside].mean() > 0.8
    assert saliency[~inside].mean() < 0.1


def test_boundary_connectivity_tells_ground_from_disc(disc):
    image, inside = disc
    graph = RegionGraph.of(image)
    connectivity = paint(graph.superpixels, rbd.boundary_connectivity(graph))
    assert connectivity[60, 80] < 0.1
    assert connectivity[~inside].mean() > 1


def test_otsu_agrees_with_scikit_image():
    rng = np.random.default_rng(10)
    values = np.concatenate([rng.normal(0.2, 0.05, 300), rng.normal(0.8, 0.05, 100)]).clip(0, 1)
    levels = np.floor(values * 255 + 0.5).astype(np.uint8)
    assert ((values >= rbd.otsu_threshold(values)) == (levels > threshold_otsu(levels))).all()


def test_otsu_of_one_value_keeps_everything():
    assert rbd.otsu_threshold(np.full(7, 0.4)) == 0
