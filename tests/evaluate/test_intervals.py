"""Intervals against SciPy, and tables with means over checkpoints."""

import numpy as np
import pytest
from scipy.stats import binomtest

from evaluate.intervals import Estimate, accuracy, mean, over_seeds, weights
from evaluate.results import tabled


@pytest.mark.parametrize("right, count", [(0, 20), (7, 20), (350, 400), (20, 20)])
def test_accuracy_is_wilsons(right, count):
    expected = binomtest(right, count).proportion_ci(method="wilson")
    assert accuracy(right / count, count)[1:] == pytest.approx((expected.low, expected.high))


def test_bootstrap_of_a_mean_is_as_wide_as_the_normal_approximation():
    values = np.random.default_rng(0).normal(3, 2, 400)
    estimate = mean(values)
    half = 1.96 * values.std() / 20
    assert estimate.value == pytest.approx(values.mean())
    assert estimate[1:] == pytest.approx((values.mean() - half, values.mean() + half), abs=0.03)
    assert mean(values) == estimate


def test_weights_draw_as_many_as_there_are():
    drawn = np.concatenate(list(weights(7)))
    assert drawn.shape == (1000, 7) and (drawn.sum(1) == 7).all()


def test_tables_show_means_of_recipes_of_several_checkpoints():
    rows = [
        {"checkpoint": "a 1", "top-1 %": Estimate(0.4, 0.3, 0.5), "size": 32, "top-5 %": 0.9},
        {"checkpoint": "b", "top-1 %": Estimate(0.1, 0.0, 0.2), "size": 32, "top-5 %": None},
        {"checkpoint": "a 2", "top-1 %": Estimate(0.6, 0.5, 0.7), "size": 64, "top-5 %": 0.7},
    ]
    table, means = tabled(rows, ["a", "b", "a"])
    assert [row["checkpoint"] for row in table] == ["a 1", "b", "a 2", "a: mean of 2"]
    assert table[0]["top-1 %"] == "40.0 [30.0, 50.0]" and table[1]["top-5 %"] == ""
    assert table[3] == {
        "checkpoint": "a: mean of 2", "top-1 %": "50.0 ± 10.0", "size": "", "top-5 %": "80.0 ± 10.0"
    }  # fmt: skip
    assert means[0]["checkpoints"] == 2 and means[0]["top-1 %"] == pytest.approx(0.5)
    assert over_seeds([1, 2, 3]) == pytest.approx((2, 1 / 3**0.5))
