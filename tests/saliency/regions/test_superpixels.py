"""Against the label image, read pixel by pixel, and the authors' flood fill."""

import numpy as np
import pytest

from saliency.regions import superpixels as regions


def plain_connected(rough, smallest):
    """The authors' flood fill."""
    h, w = rough.shape
    new = np.full((h, w), -1)
    steps = ((0, -1), (-1, 0), (0, 1), (1, 0))  # left, up, right, down
    count = neighbour = 0
    for y in range(h):
        for x in range(w):
            if new[y, x] >= 0:
                continue
            for dy, dx in steps:
                j, i = y + dy, x + dx
                if 0 <= j < h and 0 <= i < w and new[j, i] >= 0:
                    neighbour = new[j, i]
            new[y, x] = count
            region = [(y, x)]
            for j, i in region:
                for dy, dx in steps:
                    v, u = j + dy, i + dx
                    inside = 0 <= v < h and 0 <= u < w
                    if inside and new[v, u] < 0 and rough[v, u] == rough[y, x]:
                        new[v, u] = count
                        region.append((v, u))
            if len(region) <= smallest:
                for j, i in region:
                    new[j, i] = neighbour
            else:
                count += 1
    return new, count


@pytest.fixture(params=[(40, 60), (1, 50), (50, 1), (37, 23)])
def segmented(request):
    rng = np.random.default_rng(6)
    image = rng.integers(0, 256, (*request.param, 3)).astype(np.uint8)
    rough = rng.integers(0, 4, request.param).astype(np.int32)
    return regions.connected(rough, 4), image


def test_means(segmented):
    superpixels, image = segmented
    y, x = np.indices(superpixels.labels.shape)
    h, w = superpixels.labels.shape
    for k in range(superpixels.count):
        mine = superpixels.labels == k
        np.testing.assert_allclose(regions.mean_rgb(superpixels, image)[k], image[mine].mean(0))
        np.testing.assert_allclose(
            regions.mean_position(superpixels)[k],
            ((y[mine].mean() + 1) / h, (x[mine].mean() + 1) / w),
        )


@pytest.mark.parametrize("corners", [False, True])
def test_contacts(segmented, corners):
    superpixels, _ = segmented
    labels = superpixels.labels
    h, w = labels.shape
    expected = np.zeros((superpixels.count, superpixels.count), bool)
    steps = [(0, 1), (1, 0)] + ([(1, 1), (1, -1)] if corners else [])
    for y in range(h):
        for x in range(w):
            for dy, dx in steps:
                if y + dy < h and 0 <= x + dx < w:
                    expected[labels[y, x], labels[y + dy, x + dx]] = True
    np.fill_diagonal(expected, False)
    assert (regions.contacts(superpixels, corners) == expected).all()


@pytest.mark.parametrize("thickness", [1, 8])
def test_border(segmented, thickness):
    superpixels, _ = segmented
    band = np.ones_like(superpixels.labels, bool)
    band[thickness:-thickness, thickness:-thickness] = False
    expected = np.isin(np.arange(superpixels.count), superpixels.labels[band])
    assert (regions.border(superpixels, thickness) == expected).all()


def test_paint_and_distances(segmented):
    superpixels, _ = segmented
    values = np.random.default_rng(7).random(superpixels.count).astype(np.float32)
    assert (regions.paint(superpixels, values) == values[superpixels.labels]).all()
    points = np.random.default_rng(8).random((20, 3))
    expected = np.linalg.norm(points[:, None] - points[None], axis=2)
    np.testing.assert_allclose(regions.distances(points), expected, atol=1e-12)
    linked = np.random.default_rng(9).random((20, 20)) < 0.4
    i, j, distance = regions.linked_distances(points, linked | linked.T)
    assert (np.array([i, j]) == np.nonzero(np.tril(linked | linked.T, -1))).all()
    np.testing.assert_allclose(distance, expected[i, j], atol=1e-12)


def test_overlaps(segmented):
    superpixels, image = segmented
    others = regions.connected((image[..., 0] // 90).astype(np.int32), 2)
    expected = np.zeros((superpixels.count, others.count), int)
    np.add.at(expected, (superpixels.labels, others.labels), 1)
    assert (regions.overlaps(superpixels, others) == expected).all()
    values = np.random.default_rng(9).random(expected.shape)
    painted = regions.paint_overlaps(superpixels, others, values)
    assert (painted == values[superpixels.labels, others.labels]).all()


def test_two_ring_of_a_path():
    adjacent = np.eye(5, dtype=bool) | np.eye(5, k=1, dtype=bool) | np.eye(5, k=-1, dtype=bool)
    apart = np.abs(np.subtract.outer(np.arange(5), np.arange(5)))
    assert (regions.two_ring(adjacent) == (apart <= 2)).all()


@pytest.mark.parametrize("smallest", [0, 3, 20])
def test_connected_equals_the_flood_fill(smallest):
    rng = np.random.default_rng(3)
    for shape in ((17, 23), (1, 30), (30, 1), (12, 12)):
        rough = rng.integers(0, 3, shape).astype(np.int32)
        expected, count = plain_connected(rough, smallest)
        ours = regions.connected(rough, smallest)
        assert ours.count == max(count, 1)
        assert (ours.labels == expected).all()
