"""Against the algorithm written plainly in float64, and against the authors' labels."""

import numpy as np
import pytest
from scipy import ndimage

from saliency.regions import slic
from saliency.regions.colour import EPFL, SPLIT
from tests.saliency.regions.whole_images import lab_epfl, lab_split


def plain_k_means(lab, seed_x, seed_y, reach, weight):
    """SLIC's iterations, a window at a time, without any of the shortcuts."""
    _, h, w = lab.shape
    column, line = np.meshgrid(np.arange(w), np.arange(h))
    centre = [
        (*lab[:, min(int(y), h - 1), min(int(x), w - 1)], x, y)
        for x, y in zip(seed_x, seed_y, strict=True)
    ]
    labels = np.zeros((h, w), int)
    for _ in range(10):
        before = labels.copy()
        distance = np.full((h, w), np.inf)
        for k, (cl, ca, cb, cx, cy) in enumerate(centre):
            rows = slice(int(max(0, cy - reach)), int(min(h, cy + reach)))
            columns = slice(int(max(0, cx - reach)), int(min(w, cx + reach)))
            window = rows, columns
            dl, da, db = lab[0][window] - cl, lab[1][window] - ca, lab[2][window] - cb
            dx, dy = column[window] - cx, line[window] - cy
            d = dl * dl + da * da + db * db + (dx * dx + dy * dy) * weight
            nearer = d < distance[window]
            distance[window][nearer] = d[nearer]
            labels[window][nearer] = k
        if (labels == before).all():
            break
        for k in range(len(centre)):
            mine = labels == k
            if mine.any():
                share = 1.0 / mine.sum()
                planes = (*lab, column, line)
                centre[k] = tuple(np.add.reduce(plane[mine]) * share for plane in planes)
    return labels


def textured(h, w, seed):
    """Blobs of random colours with noise: many near ties, at boundaries that wind."""
    rng = np.random.default_rng(seed)
    image = ndimage.gaussian_filter(rng.normal(size=(h, w, 3)), (3, 3, 0))
    image = 128 + 400 * image + rng.normal(scale=6, size=(h, w, 3))
    return np.clip(image, 0, 255).astype(np.uint8)


def equals_plain(image):
    how = *slic._seeds_split(*image.shape[:2], 12), 12, (20 / 12) ** 2
    for colours, dtype, lab in ((SPLIT, np.float32, lab_split), (EPFL, np.float64, lab_epfl)):
        ours = slic._rough(image, colours, dtype, *how)
        assert (ours == plain_k_means(lab(image).astype(np.float64), *how)).all()


@pytest.mark.parametrize(("h", "w", "seed"), [(70, 90, 0), (101, 64, 1), (48, 160, 2)])
def test_k_means_equals_the_plain_program(h, w, seed):
    equals_plain(textured(h, w, seed))


def test_k_means_equals_the_plain_program_on_flat_patches():
    image = np.zeros((72, 96, 3), np.uint8)  # exact ties everywhere
    image[20:50, 30:60] = (200, 40, 90)
    equals_plain(image)


@pytest.mark.parametrize("make", [slic.slic_split, slic.slic_epfl])
@pytest.mark.parametrize(
    "shape", [(1, 1), (1, 9), (3, 3), (10, 400), (400, 10), (25, 25), (90, 70)]
)
def test_runs_and_labels_agree_at_any_size(make, shape):
    result = make(textured(*shape, seed=4))
    assert result.labels.shape == shape
    assert set(np.unique(result.labels)) == set(range(result.count))
    for y in range(shape[0]):
        runs = range(result.row_first[y], result.row_first[y + 1])
        row = np.concatenate(
            [np.full(result.run_end[r] - result.run_start[r], result.run_label[r]) for r in runs]
        )
        assert (row == result.labels[y]).all()
        assert all(result.run_label[r] != result.run_label[r + 1] for r in runs[:-1])


def test_number_of_superpixels_follows_the_wish(disc):
    image = disc[0]  # 120 x 160
    assert 28 <= slic.slic_split(image).count <= 36  # one in 600
    assert 110 <= slic.slic_split(image, 150.0).count <= 140
    assert 220 <= slic.slic_epfl(image).count <= 280
    assert 35 <= slic.slic_epfl(image, 40).count <= 50


def test_golden_labels(golden):
    for case in golden:
        ours = slic.slic_split(case.image).labels
        theirs = case.values["idxImg"].astype(int) - 1
        assert (ours == theirs).all(), case.name
