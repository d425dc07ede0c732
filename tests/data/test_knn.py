"""The weighted kNN against scikit-learn's, whatever the chunks."""

import numpy as np
import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier

from data.knn import nearest, weighted_knn


@pytest.fixture(scope="module")
def features():
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(7, 16))
    labels = rng.integers(0, 7, 311)
    train = centres[labels] + 0.9 * rng.normal(size=(311, 16))
    test = centres[rng.integers(0, 7, 97)] + 0.9 * rng.normal(size=(97, 16))
    return torch.tensor(train).float(), torch.tensor(labels), torch.tensor(test).float()


def sklearn_scores(train, labels, test, k, temperature):
    model = KNeighborsClassifier(
        k, metric="cosine", algorithm="brute", weights=lambda d: np.exp((1 - d) / temperature)
    )
    return model.fit(train.double(), labels).predict_proba(test.double())


@pytest.mark.parametrize("k", [1, 5, 200, 311])
@pytest.mark.parametrize("temperature", [0.07, 1.0])
@pytest.mark.parametrize("chunks", [(512, 65536), (10, 13), (97, 1)])
def test_scores_equal_scikit_learn(features, k, temperature, chunks):
    train, labels, test = features
    scores = weighted_knn(
        train, labels, test, k, temperature, 7, test_chunk=chunks[0], bank_chunk=chunks[1]
    )
    ours = scores / scores.sum(1, keepdim=True)
    np.testing.assert_allclose(ours, sklearn_scores(train, labels, test, k, temperature), atol=2e-5)


def test_leave_one_out_equals_leaving_each_out(features):
    train, labels, _ = features
    train, labels = train[:40], labels[:40]
    ours = weighted_knn(train, labels, train, 9, 0.1, 7, leave_one_out=True, bank_chunk=11)
    for i in range(len(train)):
        rest = torch.arange(len(train)) != i
        alone = weighted_knn(train[rest], labels[rest], train[i : i + 1], 9, 0.1, 7)
        torch.testing.assert_close(ours[i : i + 1], alone)


def test_leave_one_out_hides_the_image_not_its_duplicate():
    bank = torch.tensor([[1.0, 0], [1.0, 0], [0, 1.0]])
    found = nearest(bank, bank, 1, leave_one_out=True)
    assert found.index[:2, 0].tolist() == [1, 0]


def test_neighbours_are_sorted_and_exact(features):
    train, _, test = features
    found = nearest(train, test, 20, bank_chunk=50, test_chunk=30)
    plain = torch.nn.functional.cosine_similarity(test[:, None], train[None], dim=2)
    best, index = plain.sort(dim=1, descending=True)
    torch.testing.assert_close(found.similarity, best[:, :20])
    assert (found.index == index[:, :20]).all()


def test_small_temperature_does_not_overflow():
    bank = torch.eye(3)
    scores = weighted_knn(bank, torch.arange(3), bank, 3, 1e-4, 3)
    assert torch.isfinite(scores).all()
    assert scores.argmax(1).tolist() == [0, 1, 2]


def test_half_precision_features_and_absent_classes():
    bank = torch.eye(4).half()
    scores = weighted_knn(bank, torch.tensor([0, 0, 2, 2]), bank, 1, 0.07, 5)
    assert scores.shape == (4, 5)
    assert scores.argmax(1).tolist() == [0, 0, 2, 2]


@pytest.mark.parametrize("k", [0, 4])
def test_k_out_of_range(k):
    with pytest.raises(ValueError, match="there are 3"):
        weighted_knn(torch.eye(3), torch.arange(3), torch.eye(3), k)
    with pytest.raises(ValueError, match="there are 2"):
        weighted_knn(torch.eye(3), torch.arange(3), torch.eye(3), 3, leave_one_out=True)
