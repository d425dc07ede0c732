"""Superpixels by SLIC (Achanta et al., TPAMI 2012), in the two variants of the authors' code.

Published saliency maps depend on the superpixels they were made from: with another library's SLIC,
the authors' own RBD moves by a mean absolute difference of about .045. So both variants follow the
authors' arithmetic, to the order of its operations where a tie could fall the other way:

* `slic_split` is what RBD and GS call (`SLIC_Split.m`), about one superpixel per 600 pixels;
* `slic_epfl` is the EPFL program that MC calls, about 250 superpixels an image.

How it is fast. One image row at a time stays in the first-level cache while all the seeds whose
window holds the row compete for its pixels, in float32 and vectorised; the few pixels at which two
seeds come too close for float32 are decided again in float64, so that the labels are those of the
float64 program. Only pixels that change hands move the sums behind the centres. The labelled rows
then become runs of equal labels, and connected components, region statistics and contacts are read
off the runs without another visit to the pixels.
"""

from typing import NamedTuple

import numpy as np
from numba import njit, uintp

from saliency.regions.colour import lab_epfl, lab_split

_ITERATIONS = 10
_COMPACTNESS = 20.0


class Superpixels(NamedTuple):
    """A label image as runs of equal labels, row by row.

    Attributes
    ----------
    labels : int32 (H, W)
        Superpixel of each pixel, in [0, count).
    count : int
    run_label, run_start, run_end : int32 (R,)
        Run r covers columns [run_start[r], run_end[r]) of its row.
    row_first : int32 (H + 1,)
        Row y holds the runs [row_first[y], row_first[y + 1]).
    """

    labels: np.ndarray
    count: int
    run_label: np.ndarray
    run_start: np.ndarray
    run_end: np.ndarray
    row_first: np.ndarray


def slic_split(image: np.ndarray, pixels_per_superpixel: float = 600.0) -> Superpixels:
    """Superpixels as RBD and GS see them.

    Parameters
    ----------
    image : uint8 (H, W, 3)
        RGB.
    pixels_per_superpixel : float
        What the number of seeds is asked from; the authors' 600.

    Returns
    -------
    Superpixels
    """
    h, w = image.shape[:2]
    wanted = max(1, int(h * w / pixels_per_superpixel + 0.5))
    side = max(3, int(np.sqrt(h * w / wanted) + 0.5))
    return _slic(
        lab_split(image),
        *_seeds_split(h, w, side),
        side,
        (_COMPACTNESS / side) ** 2,
        side * side // 4,
    )


def slic_epfl(image: np.ndarray, superpixels: int = 250) -> Superpixels:
    """Superpixels as MC sees them, asked for by their number; see `slic_split`."""
    h, w = image.shape[:2]
    step = max(1, int(np.sqrt(int(0.5 + h * w / superpixels)) + 0.5))
    wanted = max(1, int(h * w / (step * step)))
    return _slic(
        lab_epfl(image),
        *_seeds_epfl(h, w, step),
        step,
        1.0 / (step / _COMPACTNESS) ** 2,
        (h * w // wanted) >> 2,
    )


def _seeds_split(h: int, w: int, side: int) -> tuple[np.ndarray, np.ndarray]:
    """Seed positions x and y on a grid whose step is float32, as in `SLIC.cpp`."""
    nx, ny = max(1, w // side), max(1, h // side)
    x = float(np.float32(w) / np.float32(nx)) * (np.arange(nx) + 0.5) + 0.5
    y = float(np.float32(h) / np.float32(ny)) * (np.arange(ny) + 0.5) + 0.5
    return np.tile(x, ny), np.repeat(y, nx)


def _seeds_epfl(h: int, w: int, step: int) -> tuple[np.ndarray, np.ndarray]:
    """Seed positions x and y at whole pixels, the remainder spread evenly over the strips."""

    def strip_centres(length):
        strips = int(0.5 + length / step)
        if length - step * strips < 0:
            strips -= 1
        strips = max(1, strips)
        spare = (length - step * strips) / strips
        i = np.arange(strips)
        return np.minimum(i * step + step // 2 + (i * spare).astype(int), length - 1.0)

    x, y = strip_centres(w), strip_centres(h)
    return np.tile(x, len(y)), np.repeat(y, len(x))


@njit(cache=True)
def _slic(lab, seed_x, seed_y, reach, spatial_weight, smallest):
    rough = _k_means(lab, seed_x, seed_y, reach, spatial_weight)
    return _connected(rough, smallest)


@njit(cache=True, error_model="numpy", inline="always")
def _claim(lightness, a, b, ramp, x0, x1, cl, ca, cb, cx, dy2, weight, k, best, second, owner):
    """Let seed k compete for the pixels x0..x1 of one row, in float32.

    (cl, ca, cb) is its colour, cx its column from x0. Unsigned indices keep numba from testing for
    negative ones, and the stores are written as selections: both are what lets LLVM vectorise the
    loop, to eight pixels an instruction.
    """
    first = uintp(x0)
    for i in range(x1 - x0):
        j = uintp(i)
        x = first + j
        dl = lightness[x] - cl
        da = a[x] - ca
        db = b[x] - cb
        dx = ramp[j] - cx
        d = dl * dl + da * da + db * db + (dx * dx + dy2) * weight
        held = best[x]
        nearer = d < held
        loser = held if nearer else d
        second[x] = loser if loser < second[x] else second[x]
        best[x] = d if nearer else held
        owner[x] = k if nearer else owner[x]


@njit(cache=True, error_model="numpy")
def _mark_close(best, second, close):
    """Mark the pixels whose two nearest seeds float32 cannot tell apart.

    Lab values below 128 and centres are off by at most 2^-18 each, so a squared distance d is off
    by less than 1.5e-5 (1 + d); the tolerance for two of them leaves a factor of three.
    """
    for i in range(best.size):
        x = uintp(i)
        close[x] = second[x] - best[x] < np.float32(1e-4) * (np.float32(1.0) + best[x])


@njit(cache=True, error_model="numpy")
def _mark_changed(before, after, changed):
    for i in range(before.size):
        x = uintp(i)
        changed[x] = before[x] != after[x]


@njit(cache=True, error_model="numpy")
def _nearest(lab, y, x, seeds, x0, x1, centre, weight, unclaimed):
    """The nearest seed of one pixel in float64, the first among equals, as the authors have it."""
    best = np.inf
    owner = unclaimed
    for k in seeds:
        if x0[k] <= x < x1[k]:
            dl = lab[0, y, x] - centre[k, 0]
            da = lab[1, y, x] - centre[k, 1]
            db = lab[2, y, x] - centre[k, 2]
            dx = x - centre[k, 3]
            dy = y - centre[k, 4]
            d = dl * dl + da * da + db * db + (dx * dx + dy * dy) * weight
            if d < best:
                best = d
                owner = k
    return owner


@njit(cache=True, error_model="numpy")
def _k_means(lab, seed_x, seed_y, reach, spatial_weight, iterations=_ITERATIONS):
    """Label each pixel by the nearest of the seeds whose window holds it; move the seeds; repeat.

    Distance: |dLab|^2 + spatial_weight |dxy|^2. Window: +-reach around the seed, cut to whole
    pixels. `lab` is float64 (3, H, W); returns int32 (H, W) labels. Stops when none changes.
    """
    _, h, w = lab.shape
    n = seed_x.size
    lab32 = lab.astype(np.float32)
    centre = np.empty((n, 5))  # L, a, b, x, y
    for k in range(n):
        x, y = min(int(seed_x[k]), w - 1), min(int(seed_y[k]), h - 1)
        for c in range(3):
            centre[k, c] = lab[c, y, x]
        centre[k, 3], centre[k, 4] = seed_x[k], seed_y[k]
    total = np.zeros((n, 6))  # of each cluster's pixels: L, a, b, x, y, 1

    owner = np.zeros((h, w), np.float32)  # labels in the width of distances: selections vectorise
    before = np.empty(w, np.float32)
    best = np.empty(w, np.float32)
    second = np.empty(w, np.float32)
    ramp = np.arange(2 * reach + 2).astype(np.float32)
    weight32 = np.float32(spatial_weight)
    marks = np.zeros((w + 7) // 8 * 8, np.uint8)
    eight_marks = marks.view(np.uint64)
    x0, x1 = np.empty(n, np.int64), np.empty(n, np.int64)
    y0, y1 = np.empty(n, np.int64), np.empty(n, np.int64)
    row_first = np.empty(h + 1, np.int64)
    row_fill = np.empty(h, np.int64)
    seeds_of_rows = np.empty(n * (2 * reach + 2), np.int32)

    for iteration in range(iterations):
        # Which seeds' windows hold which row; seeds stay in order within a row.
        row_first[:] = 0
        for k in range(n):
            x0[k] = int(max(0.0, centre[k, 3] - reach))
            x1[k] = int(min(float(w), centre[k, 3] + reach))
            y0[k] = int(max(0.0, centre[k, 4] - reach))
            y1[k] = int(min(float(h), centre[k, 4] + reach))
            for y in range(y0[k], y1[k]):
                row_first[y + 1] += 1
        for y in range(h):
            row_first[y + 1] += row_first[y]
            row_fill[y] = row_first[y]
        for k in range(n):
            for y in range(y0[k], y1[k]):
                seeds_of_rows[row_fill[y]] = k
                row_fill[y] += 1

        changes = 0
        for y in range(h):
            row = owner[y]
            before[:] = row
            best[:] = np.inf
            second[:] = np.inf
            lightness, a, b = lab32[0, y], lab32[1, y], lab32[2, y]
            seeds = seeds_of_rows[row_first[y] : row_first[y + 1]]
            for k in seeds:
                dy = y - centre[k, 4]
                _claim(
                    lightness, a, b, ramp, x0[k], x1[k],
                    np.float32(centre[k, 0]), np.float32(centre[k, 1]), np.float32(centre[k, 2]),
                    np.float32(centre[k, 3] - x0[k]), np.float32(dy * dy), weight32,
                    np.float32(k), best, second, row,
                )  # fmt: skip

            _mark_close(best, second, marks[:w])
            for i in range(eight_marks.size):
                if eight_marks[i] != 0:
                    for x in range(8 * i, min(8 * i + 8, w)):
                        if marks[x]:
                            old = int(before[x])
                            row[x] = _nearest(lab, y, x, seeds, x0, x1, centre, spatial_weight, old)

            _mark_changed(before, row, marks[:w])
            if iteration == 0:
                for x in range(w):
                    _add(total, int(row[x]), lab, y, x, 1.0)
                    changes += marks[x]
                continue
            for i in range(eight_marks.size):
                if eight_marks[i] != 0:
                    for x in range(8 * i, min(8 * i + 8, w)):
                        if marks[x]:
                            changes += 1
                            _add(total, int(before[x]), lab, y, x, -1.0)
                            _add(total, int(row[x]), lab, y, x, 1.0)
        if changes == 0:
            break
        for k in range(n):
            if total[k, 5] > 0:
                inverse = 1.0 / total[k, 5]
                for c in range(5):
                    centre[k, c] = total[k, c] * inverse
    return owner.astype(np.int32)


@njit(cache=True, inline="always")
def _add(total, k, lab, y, x, sign):
    total[k, 0] += sign * lab[0, y, x]
    total[k, 1] += sign * lab[1, y, x]
    total[k, 2] += sign * lab[2, y, x]
    total[k, 3] += sign * x
    total[k, 4] += sign * y
    total[k, 5] += sign


@njit(cache=True)
def _root(parent, r):
    while parent[r] != r:
        parent[r] = parent[parent[r]]
        r = parent[r]
    return r


@njit(cache=True)
def _connected(rough, smallest):
    """Make every superpixel 4-connected.

    The authors flood components in raster order. One of at most `smallest` pixels joins a
    neighbour: of its first pixel's left, upper, right and lower neighbour, the last that was
    labelled before; the others are numbered as they come. Here components are united from runs,
    the smaller run index as root, so that roots in increasing order are components in raster order
    of their first pixels, and "labelled before" is "of a smaller root".
    """
    h, w = rough.shape
    runs = h
    for y in range(h):
        for x in range(1, w):
            runs += rough[y, x] != rough[y, x - 1]
    start = np.empty(runs, np.int32)
    end = np.empty(runs, np.int32)
    parent = np.empty(runs, np.int32)
    size = np.zeros(runs, np.int64)
    row_first = np.empty(h + 1, np.int32)
    r = 0
    for y in range(h):
        row_first[y] = r
        x = 0
        above = row_first[y - 1] if y > 0 else 0
        while x < w:
            start[r] = x
            while x < w and rough[y, x] == rough[y, start[r]]:
                x += 1
            end[r] = x
            parent[r] = r
            if y > 0:
                while end[above] <= start[r]:
                    above += 1
                a = above
                while a < row_first[y] and start[a] < x:
                    if rough[y - 1, start[a]] == rough[y, start[r]]:
                        one, other = _root(parent, a), _root(parent, r)
                        parent[max(one, other)] = min(one, other)
                    a += 1
            r += 1
    row_first[h] = runs
    for r in range(runs):
        size[_root(parent, r)] += end[r] - start[r]

    new = np.full(runs, -1, np.int32)  # of a component's root: its final label
    label = np.empty(runs, np.int32)
    count = 0
    neighbour = 0
    for y in range(h):
        for r in range(row_first[y], row_first[y + 1]):
            root = _root(parent, r)
            if root == r:
                # The first pixel of a component: look left, up, right, down for earlier ones.
                if start[r] > 0:
                    neighbour = new[_root(parent, r - 1)]
                if y > 0:
                    a = row_first[y - 1]
                    while end[a] <= start[r]:
                        a += 1
                    neighbour = new[_root(parent, a)]
                if start[r] + 1 < w and end[r] == start[r] + 1:
                    earlier = new[_root(parent, r + 1)]
                    neighbour = earlier if earlier >= 0 else neighbour
                if y + 1 < h:
                    a = row_first[y + 1]
                    while end[a] <= start[r]:
                        a += 1
                    earlier = new[_root(parent, a)]
                    # The run below may belong to this very component, still unlabelled.
                    neighbour = earlier if earlier >= 0 else neighbour
                if size[r] <= smallest:
                    new[r] = neighbour
                else:
                    new[r] = count
                    count += 1
            label[r] = new[root]
    return _merge_runs(h, w, max(count, 1), label, start, end, row_first)


@njit(cache=True)
def _merge_runs(h, w, count, label, start, end, row_first):
    """Paint the labels, and join runs that have become equal to their left neighbour."""
    labels = np.empty((h, w), np.int32)
    last = 0
    for y in range(h):
        first, stop = row_first[y], row_first[y + 1]
        row_first[y] = last
        for r in range(first, stop):
            labels[y, start[r] : end[r]] = label[r]
            if last > row_first[y] and label[last - 1] == label[r]:
                end[last - 1] = end[r]
            else:
                label[last], start[last], end[last] = label[r], start[r], end[r]
                last += 1
    row_first[h] = last
    return Superpixels(labels, count, label[:last], start[:last], end[:last], row_first)
