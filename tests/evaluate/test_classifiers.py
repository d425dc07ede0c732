"""The logistic regression against scikit-learn's."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression as Reference

from evaluate.classifiers import GRID, _is_past, fit, minimise


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(4, 12))
    labels = rng.integers(0, 4, 300)
    features = centres[labels] + 1.2 * rng.normal(size=(300, 12))
    return torch.tensor(features), torch.tensor(labels)


@pytest.mark.parametrize("c", [1e-3, 1e-1, 10.0])
def test_coefficients_equal_scikit_learn(data, c):
    features, labels = data
    ours = minimise(features, labels, 4, c)
    reference = Reference(C=c, tol=1e-8, max_iter=5000).fit(features.numpy(), labels.numpy())
    np.testing.assert_allclose(ours[:, :-1], reference.coef_, atol=2e-3)
    bias = ours[:, -1] - ours[:, -1].mean()  # only differences between classes are determined
    np.testing.assert_allclose(bias, reference.intercept_ - reference.intercept_.mean(), atol=2e-3)


def test_warm_start_ends_where_a_cold_one_does(data):
    features, labels = data
    cold = minimise(features, labels, 4, 0.1)
    warm = minimise(features, labels, 4, 0.1, minimise(features, labels, 4, 1e-4))
    np.testing.assert_allclose(warm, cold, atol=2e-3)


def test_fit_folds_the_standardisation_into_its_weights(data):
    features, labels = data
    moved = features * torch.logspace(-2, 2, 12) + 7
    one = fit(features.float(), labels, 4)
    other = fit(moved.float(), labels, 4)
    assert one.c == other.c
    torch.testing.assert_close(
        one(features.float()).softmax(1), other(moved.float()).softmax(1), atol=0.02, rtol=0
    )
    accuracy = (one(features.float()).argmax(1) == labels).float().mean()
    reference = Reference(C=one.c, max_iter=1000)
    scaled = (features - features.mean(0)) / features.std(0)
    assert accuracy == pytest.approx(reference.fit(scaled, labels).score(scaled, labels), abs=0.01)


def test_regularisation_is_chosen_on_held_out_images():
    """Noise in more dimensions than images: the weakest regularisation overfits, and loses."""
    rng = np.random.default_rng(1)
    labels = torch.tensor(rng.integers(0, 2, 200))
    features = torch.tensor(rng.normal(size=(200, 400))).float()
    features[:, 0] += 1.5 * (2 * labels - 1)
    found = fit(features, labels, 2)
    best = max(found.tried.values())
    assert found.c == min(c for c, accuracy in found.tried.items() if accuracy == best)
    assert 1e-6 < found.c < 100


def test_falls_before_a_rise_do_not_end_the_path():
    """On few images the first accuracies are chance: they may fall, and the best is yet to come."""
    chance = [0.25, 0.2375, 0.2125, 0.2, 0.325, 0.4]
    assert not any(_is_past(chance[:end], 80) for end in range(1, 7))
    whole = [*chance, 0.5125, 0.4875]
    assert not _is_past(whole, 80) and not _is_past([*whole, 0.4875], 80)
    assert _is_past([*whole, 0.475], 80)
    assert _is_past([0.70, 0.71, 0.709, 0.708], 100_000)  # on many images a point is a rise


def test_labels_by_chance_are_tried_with_every_c():
    rng = np.random.default_rng(0)
    features = torch.tensor(rng.normal(size=(120, 8))).float()
    labels = torch.tensor(rng.integers(0, 4, 120))
    assert len(fit(features, labels, 4).tried) == len(GRID)
