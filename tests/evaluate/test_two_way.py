"""Objects against backgrounds: the estimators on networks and grids whose answer is known."""

import itertools

import numpy as np
import pytest

from evaluate.intervals import RESAMPLES
from evaluate.two_way import TERMS, Distances, abx, fractions, measure, swap_shares, variances

OBJECTS, BEHIND = 5, 4
ONES = np.ones((1, OBJECTS)), np.ones((1, BEHIND))


@pytest.fixture
def features():
    return np.random.default_rng(0).normal(2, 1, (OBJECTS, BEHIND, 3))


def effects(rng, count, behind, sizes, dim=2):
    """A grid with the variances `sizes` of object, background and interaction."""
    a, b, c = (s**0.5 for s in sizes)
    shapes = (count, 1, dim), (1, behind, dim), (count, behind, dim)
    parts = [s * rng.normal(size=shape) for s, shape in zip((a, b, c), shapes, strict=True)]
    return sum(parts) / dim**0.5


def test_variances_are_those_of_the_analysis_of_variance(features):
    mean = features.mean((0, 1))
    rows, columns = features.mean(1), features.mean(0)
    rest = features - rows[:, None] - columns[None] + mean
    ms_a = BEHIND * np.square(rows - mean).sum() / (OBJECTS - 1)
    ms_b = OBJECTS * np.square(columns - mean).sum() / (BEHIND - 1)
    ms_c = np.square(rest).sum() / ((OBJECTS - 1) * (BEHIND - 1))
    got = [float(value[0]) for value in variances(features, *ONES)]
    assert got == pytest.approx([(ms_a - ms_c) / BEHIND, (ms_b - ms_c) / OBJECTS, ms_c])


def test_copies_are_never_taken_for_others(features):
    """Weights against plain loops over the pairs of a resample."""
    w, v = np.array([2, 0, 1, 1, 1]), np.array([0, 3, 1, 0])
    sums, counts = np.zeros(3), np.zeros(3)
    cells = list(itertools.product(range(OBJECTS), range(BEHIND)))
    for (i, j), (n, k) in itertools.product(cells, cells):
        half = np.square(features[i, j] - features[n, k]).sum() / 2
        for number, (holds, weight) in enumerate(
            [
                (i == n and j != k, w[i] * v[j] * v[k]),
                (i != n and j == k, w[i] * w[n] * v[j]),
                (i != n and j != k, w[i] * w[n] * v[j] * v[k]),
            ]
        ):
            sums[number] += holds * weight * half
            counts[number] += holds * weight
    same_object, same_background, apart = sums / counts
    got = [float(x[0]) for x in variances(features, w[None] * 1.0, v[None] * 1.0)]
    expected = [apart - same_object, apart - same_background, same_object + same_background - apart]
    assert got == pytest.approx(expected)


def test_abx_and_swap_against_plain_loops(features):
    w, v = np.array([2, 0, 1, 1, 1]), np.array([1, 2, 1, 0])

    def d(x, y):
        return np.square(features[x] - features[y]).sum()

    hits, trials, distances = 0, 0, Distances.of(features)
    for i, n, j, k in itertools.product(
        range(OBJECTS), range(OBJECTS), range(BEHIND), range(BEHIND)
    ):
        if i != n and j != k:
            weight = w[i] * w[n] * v[j] * v[k]
            hits += weight * (d((i, j), (i, k)) < d((i, j), (n, j)))
            trials += weight
    assert abx(distances, w[None] * 1.0, v[None] * 1.0)[0] == pytest.approx(hits / trials, rel=1e-6)
    for i in range(OBJECTS):
        o = [d((i, j), (n, j)) for j in range(BEHIND) for n in range(OBJECTS) if n != i]
        b = [d((i, j), (i, k)) for j in range(BEHIND) for k in range(BEHIND) if k != j]
        share = np.mean(o) / (np.mean(o) + np.mean(b))
        assert swap_shares(distances, *ONES)[0, i] == pytest.approx(share)


@pytest.mark.parametrize("sizes", [(1, 0, 0), (0, 1, 0), (0.5, 0.2, 0.3)])
def test_known_fractions(sizes):
    grid = measure(effects(np.random.default_rng(1), 24, 24, sizes, dim=64))
    got = [grid.value[name] for name in TERMS]
    assert got == pytest.approx(sizes, abs=0.06) and sum(got) == pytest.approx(1)
    for name, size in zip(TERMS, sizes, strict=True):
        estimate = grid.estimate(name)
        assert estimate.low - 1e-9 <= size <= estimate.high + 1e-9
        assert len(grid.resampled[name]) == RESAMPLES
    known = {1: 1.0, 0: 0.0}.get(sizes[0])
    if known is not None:  # the object alone, or the background alone
        assert grid.value["abx"] == known and grid.value["swap"] == pytest.approx(known)


def test_small_grids_are_unbiased_and_cover():
    rng, sizes = np.random.default_rng(2), np.array([0.5, 0.2, 0.3])
    grids = [effects(rng, 4, 3, sizes) for _ in range(1500)]
    ones = np.ones((1, 4)), np.ones((1, 3))
    each = np.array([np.ravel(variances(grid, *ones)) for grid in grids])
    error = each.std(0) / len(each) ** 0.5
    assert (np.abs(each.mean(0) - sizes) < 3.5 * error).all()
    covered = []
    for _ in range(15):
        estimate = measure(effects(rng, 10, 10, sizes, dim=8)).estimate("background")
        covered.append(estimate.low <= 0.2 <= estimate.high)
    assert np.mean(covered) >= 0.8


def test_what_never_changes_is_not_divided():
    constant = np.full((OBJECTS, BEHIND, 3), 0.1)
    assert np.isnan(fractions(constant, *ONES)["object"]).all()
    assert np.isnan(swap_shares(Distances.of(constant), *ONES)).all()
    assert abx(Distances.of(constant), *ONES)[0] == 0.5


def test_differences_are_paired():
    rng = np.random.default_rng(3)
    grid = effects(rng, 16, 16, (0.4, 0.4, 0.2), dim=8)
    nearly = measure(grid + 0.01 * rng.normal(size=grid.shape))
    difference = nearly.difference(measure(grid), "background")
    own = nearly.estimate("background")
    assert difference.high - difference.low < 0.1 * (own.high - own.low)
