import math

import numpy as np

from saliency.maps import saliency_maps
from saliency.methods import fusion


def test_one_layer_by_the_papers_sums():
    """Impact factors, coherence and synchronous updates, cell by cell."""
    rng = np.random.default_rng(0)
    lab, start = rng.uniform(0, 90, (7, 3)), rng.uniform(size=7)
    linked = rng.uniform(size=(7, 7)) < 0.6
    linked = linked | linked.T | np.eye(7, dtype=bool)
    colour = (lab - lab.min(0)) / (lab.max(0) - lab.min(0))

    impact = [
        [
            math.exp(-math.dist(colour[i], colour[j]) / 0.1) if linked[i, j] and i != j else 0
            for j in range(7)
        ]
        for i in range(7)
    ]
    inverse = [1 / max(row) for row in impact]
    coherence = [0.6 * (c - min(inverse)) / (max(inverse) - min(inverse)) + 0.2 for c in inverse]
    s = list(start)
    for _ in range(10):
        s = [
            coherence[i] * s[i]
            + (1 - coherence[i]) * sum(impact[i][j] * s[j] for j in range(7)) / sum(impact[i])
            for i in range(7)
        ]
    expected = [(v - min(s)) / (max(s) - min(s)) for v in s]
    layers = fusion.evened(np.column_stack([start, 1 - start]), lab, linked)
    np.testing.assert_allclose(layers[:, 0], expected, atol=1e-12)
    np.testing.assert_allclose(layers[:, 1], 1 - np.array(expected), atol=1e-12)


def test_a_superpixel_without_links_keeps_its_value():
    lab, linked = np.diag([10.0, 50.0, 90.0]), np.eye(3, dtype=bool)
    start = np.array([[0.0], [0.3], [1.0]])
    np.testing.assert_allclose(fusion.evened(start, lab, linked), start, atol=1e-12)


def test_many_layers_by_the_papers_sums():
    """Cell by cell: prior odds times lambda / (1 - lambda) for each vote."""
    layers = np.array([[0.9, 0.8, 0.2], [0.9, 0.9, 0.9], [0.1, 0.2, 0.1], [0.0, 0.1, 0.6]])
    thresholds = [fusion.otsu_threshold(layer.clip(0.01, 0.99)) for layer in layers.T]
    odds_of_a_vote = math.exp(0.15)
    expected = []
    for cell in layers.clip(0.01, 0.99):
        p = list(cell)
        for _ in range(5):
            votes = [1 if p[k] > thresholds[k] else -1 for k in range(3)]
            odds = [
                p[m]
                / (1 - p[m])
                * math.prod(odds_of_a_vote ** votes[k] for k in range(3) if k != m)
                for m in range(3)
            ]
            p = [o / (1 + o) for o in odds]
        expected.append(sum(p) / 3)
    np.testing.assert_allclose(fusion.joined(layers), expected, atol=1e-12)
    assert fusion.joined(layers)[1] > layers[1].mean()  # all agree: surer than any


def test_fusion_of_a_disc_is_nearly_binary(disc):
    image, inside = disc
    result = saliency_maps(image, ["fusion"])["fusion"]
    assert result[inside].mean() > 0.9
    assert result[~inside].mean() < 0.1


def test_on_photographs_it_errs_less_than_each_of_its_parts(shared_data):
    from data.images.decode import decode

    names = ("fusion", "rbd", "mc", "gs")
    error = dict.fromkeys(names, 0.0)
    for number in range(40, 1000, 60):
        image = decode(shared_data / f"ecssd/images/{number:04d}.jpg").image
        truth = decode(shared_data / f"ecssd/masks/{number:04d}.png").image[..., 0] > 128
        for name, saliency in saliency_maps(image, names).items():
            error[name] += np.abs(saliency - truth).mean()
    assert error["fusion"] < min(error[name] for name in names[1:])
