"""Superpixels by SLIC (Achanta et al., TPAMI 2012), in the two variants of the authors' code.

Published saliency maps depend on the superpixels they were made from: with another library's SLIC,
the authors' own RBD moves by a mean absolute difference of about .045. So both variants follow the
authors' arithmetic, to the order of its operations where a tie could fall the other way:

* `slic_split` is what RBD and GS call (`SLIC_Split.m`), about one superpixel per 600 pixels;
* `slic_epfl` is the EPFL program that MC calls, about 250 superpixels an image.

How it is fast. One image row at a time stays in the first-level cache while all the seeds whose
window holds the row compete for its pixels, in float32 and vectorised; the few pixels at which two
seeds come too close for float32 are decided again in float64, so that the labels are those of the
float64 program. Only pixels that change hands move the sums behind the centres.
"""

import numpy as np
from numba import njit, uintp

from saliency.regions.colour import lab_epfl, lab_split
from saliency.regions.superpixels import Superpixels, connected

_ITERATIONS = 10
_COMPACTNESS = 20.0


def slic_split(image: np.ndarray, pixels_per_superpixel: float = 600.0) -> Superpixels:
    """Cut uint8 (H, W, 3) RGB into superpixels of about so many pixels each, as RBD and GS do."""
    h, w = image.shape[:2]
    wanted = max(1, int(h * w / pixels_per_superpixel + 0.5))
    side = max(3, int(np.sqrt(h * w / wanted) + 0.5))
    seeds = _seeds_split(h, w, side)
    rough = _k_means(lab_split(image), *seeds, side, (_COMPACTNESS / side) ** 2)
    return connected(rough, side * side // 4)


def slic_epfl(image: np.ndarray, superpixels: int = 250) -> Superpixels:
    """Cut uint8 (H, W, 3) RGB into about so many superpixels, as MC does."""
    h, w = image.shape[:2]
    step = max(1, int(np.sqrt(int(0.5 + h * w / superpixels)) + 0.5))
    wanted = max(1, int(h * w / (step * step)))
    seeds = _seeds_epfl(h, w, step)
    rough = _k_means(lab_epfl(image), *seeds, step, 1.0 / (step / _COMPACTNESS) ** 2)
    return connected(rough, (h * w // wanted) >> 2)


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


@njit(cache=True, error_model="numpy", inline="always")
def _claim(lab_row, ramp, x0, x1, seed, dy, weight, k, best, second, owner):
    """Let seed k, (L, a, b, x, y), compete for the pixels x0..x1 of a row, in float32.

    Unsigned indices keep numba from testing for negative ones, and the stores are written as
    selections: both are what lets LLVM vectorise the loop, to eight pixels an instruction.
    """
    lightness, a, b = lab_row
    cl, ca, cb = np.float32(seed[0]), np.float32(seed[1]), np.float32(seed[2])
    cx, dy2 = np.float32(seed[3] - x0), np.float32(dy * dy)
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
    centre = _first_centres(lab, seed_x, seed_y)
    total = np.zeros((n, 6))  # of each cluster's pixels: L, a, b, x, y, 1
    owner = np.zeros((h, w), np.float32)  # labels in the width of distances: selections vectorise
    before = np.empty(w, np.float32)
    best = np.empty(w, np.float32)
    second = np.empty(w, np.float32)
    ramp = np.arange(2 * reach + 2).astype(np.float32)
    weight32 = np.float32(spatial_weight)
    marks = np.zeros((w + 7) // 8 * 8, np.uint8)  # whole words of eight, most of them zero
    x0, x1 = np.empty(n, np.int64), np.empty(n, np.int64)
    row_first = np.empty(h + 1, np.int64)
    row_seeds = np.empty(n * (2 * reach + 2), np.int32)

    for iteration in range(iterations):
        _place_windows(centre, reach, w, x0, x1, row_first, row_seeds)
        changes = 0
        for y in range(h):
            row = owner[y]
            before[:] = row
            best[:] = np.inf
            second[:] = np.inf
            lab_row = lab32[0, y], lab32[1, y], lab32[2, y]
            seeds = row_seeds[row_first[y] : row_first[y + 1]]
            for k in seeds:
                dy = y - centre[k, 4]
                label = np.float32(k)
                _claim(
                    lab_row, ramp, x0[k], x1[k], centre[k], dy, weight32, label, best, second, row
                )
            _mark_close(best, second, marks[:w])
            _decide_again(marks, lab, y, seeds, x0, x1, centre, spatial_weight, before, row)
            _mark_changed(before, row, marks[:w])
            if iteration == 0:
                changes += _add_row(total, lab, y, row)
            else:
                changes += _move_changed(marks, total, lab, y, before, row)
        if changes == 0:
            break
        for k in range(n):
            if total[k, 5] > 0:
                inverse = 1.0 / total[k, 5]
                for c in range(5):
                    centre[k, c] = total[k, c] * inverse
    return owner.astype(np.int32)


@njit(cache=True)
def _first_centres(lab, seed_x, seed_y):
    """Return (L, a, b, x, y) of each seed."""
    _, h, w = lab.shape
    centre = np.empty((seed_x.size, 5))
    for k in range(seed_x.size):
        x, y = min(int(seed_x[k]), w - 1), min(int(seed_y[k]), h - 1)
        for c in range(3):
            centre[k, c] = lab[c, y, x]
        centre[k, 3], centre[k, 4] = seed_x[k], seed_y[k]
    return centre


@njit(cache=True)
def _place_windows(centre, reach, w, x0, x1, row_first, row_seeds):
    """Cut the windows to whole pixels, and list the seeds whose windows hold a row, in order."""
    n, h = len(centre), row_first.size - 1
    y0, y1 = np.empty(n, np.int64), np.empty(n, np.int64)
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
    row_next = row_first[:h].copy()
    for k in range(n):
        for y in range(y0[k], y1[k]):
            row_seeds[row_next[y]] = k
            row_next[y] += 1


@njit(cache=True, error_model="numpy")
def _decide_again(marks, lab, y, seeds, x0, x1, centre, weight, before, row):
    """Label the marked pixels of a row by the nearest seed in float64."""
    words = marks.view(np.uint64)
    for i in range(words.size):
        if words[i] != 0:
            for x in range(8 * i, min(8 * i + 8, row.size)):
                if marks[x]:
                    row[x] = _nearest(lab, y, x, seeds, x0, x1, centre, weight, int(before[x]))


@njit(cache=True)
def _add_row(total, lab, y, row):
    """Add a row's pixels to their clusters; return how many are not of the first."""
    others = 0
    for x in range(row.size):
        _add(total, int(row[x]), lab, y, x, 1.0)
        others += row[x] != 0
    return others


@njit(cache=True)
def _move_changed(marks, total, lab, y, before, row):
    """Move the marked pixels of a row between the clusters' totals; return how many there are."""
    words = marks.view(np.uint64)
    changes = 0
    for i in range(words.size):
        if words[i] != 0:
            for x in range(8 * i, min(8 * i + 8, row.size)):
                if marks[x]:
                    changes += 1
                    _add(total, int(before[x]), lab, y, x, -1.0)
                    _add(total, int(row[x]), lab, y, x, 1.0)
    return changes


@njit(cache=True, inline="always")
def _add(total, k, lab, y, x, sign):
    total[k, 0] += sign * lab[0, y, x]
    total[k, 1] += sign * lab[1, y, x]
    total[k, 2] += sign * lab[2, y, x]
    total[k, 3] += sign * x
    total[k, 4] += sign * y
    total[k, 5] += sign
