"""The learning rate, by hand."""

import math

import pytest

from data.schedule import learning_rate


def rates(at, steps=10, **options):
    options = {"base": 0.03, "epochs": 200, "schedule": "step"} | options
    return [learning_rate(epoch * steps, steps, **options) for epoch in at]


def test_the_papers_steps():
    found = rates([0, 119, 120, 159, 160, 199])
    assert found == pytest.approx([0.03, 0.03, 0.003, 0.003, 0.0003, 0.0003])
    assert rates([119, 120, 160], milestones=(120, 160)) == pytest.approx([0.03, 0.003, 0.0003])
    assert rates([59, 60, 80], epochs=100) == pytest.approx([0.03, 0.003, 0.0003])


def test_cosine_by_epoch():
    expected = [0.015 * (1 + math.cos(math.pi * epoch / 200)) for epoch in (0, 50, 199)]
    assert rates([0, 50, 199], schedule="cosine") == pytest.approx(expected)
    within = learning_rate(505, 10, base=0.03, epochs=200, schedule="cosine")
    assert within == rates([50], schedule="cosine")[0]


def test_warm_up_is_linear_by_step():
    options = {"base": 1.0, "epochs": 10, "schedule": "step", "warmup_epochs": 2}
    found = [learning_rate(step, 5, **options) for step in range(12)]
    assert found == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.0, 1.0])
