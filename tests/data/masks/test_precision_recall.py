"""Precision and recall against the definition written plainly, and against pysodmetrics."""

import warnings

import numpy as np
import pytest

from data.masks.precision_recall import Curve, normalise, precision_recall


def plain_precision_recall(saliency, truth):
    precision, recall = [], []
    for t in range(256):
        chosen = saliency >= t
        hits = (chosen & truth).sum()
        precision.append(hits / chosen.sum() if chosen.any() else 0.0)
        recall.append(hits / truth.sum())
    return np.array(precision), np.array(recall)


@pytest.fixture
def pairs():
    rng = np.random.default_rng(0)
    out = []
    for low, high in ((0, 256), (0, 30), (100, 200), (7, 8)):
        saliency = rng.integers(low, high, (23, 31), dtype=np.uint8)
        truth = rng.random((23, 31)) < 0.3
        out.append((saliency, truth))
    return out


def test_histogram_equals_plain_definition(pairs):
    for saliency, truth in pairs:
        got = precision_recall(saliency, truth)
        for ours, plain in zip(got, plain_precision_recall(saliency, truth), strict=True):
            np.testing.assert_array_equal(ours, plain)


def test_normalise_stretches_to_the_whole_range_and_rounds_half_up():
    saliency = np.array([[10, 11, 12]], np.uint8)
    np.testing.assert_array_equal(normalise(saliency), [[0, 128, 255]])


@pytest.mark.parametrize("value", [0, 9, 255])
def test_constant_map_is_empty(value):
    assert not normalise(np.full((4, 5), value, np.uint8)).any()


def test_normalise_equals_float_formula():
    rng = np.random.default_rng(1)
    for _ in range(20):
        low, high = sorted(rng.choice(256, 2, replace=False))
        saliency = rng.integers(low, high + 1, (9, 9), dtype=np.uint8)
        values = saliency.astype(float)
        plain = np.floor((values - values.min()) / np.ptp(values) * 255 + 0.5)
        np.testing.assert_array_equal(normalise(saliency), plain)


def test_averages_equal_pysodmetrics_before_it_averages_f(pairs):
    from py_sod_metrics import Fmeasure

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        reference = Fmeasure()
    ours = []
    for saliency, truth in pairs:
        if (saliency.min(), saliency.max()) != (0, 255):
            continue  # pysodmetrics truncates the stretched map where the benchmark rounds
        reference.step(saliency, truth.astype(np.uint8) * 255)
        ours.append(precision_recall(saliency, truth))
    assert ours
    found = reference.get_results()["pr"]
    np.testing.assert_allclose(np.mean([p for p, _ in ours], 0), found["p"][::-1], atol=1e-12)
    np.testing.assert_allclose(np.mean([r for _, r in ours], 0), found["r"][::-1], atol=1e-12)


def test_f_is_taken_of_averages_not_averaged():
    curve = Curve(np.array([1.0, 0.5, 0.0]), np.array([0.5, 1.0, 0.0]))
    plain = [1.3 * 1 * 0.5 / (0.3 * 1 + 0.5), 1.3 * 0.5 * 1 / (0.3 * 0.5 + 1), 0.0]
    np.testing.assert_allclose(curve.f_measure(), plain)
    assert curve.max_f == pytest.approx(max(plain))
    assert curve.mean_f == pytest.approx(np.mean(plain))
