"""Superpixels by SLIC (Achanta et al., TPAMI 2012), in the two variants of the authors' code.

Published saliency maps depend on the superpixels they were made from: with another library's SLIC,
the authors' own RBD moves by a mean absolute difference of about .045. So both variants follow the
authors' arithmetic, to the order of its operations where a tie could fall the other way:

* `slic_split` is what RBD and GS call (`SLIC_Split.m`), about one superpixel per 600 pixels;
* `slic_epfl` is the EPFL program that MC calls, about 250 superpixels an image.

How it is fast. The image is cut into tiles of 8 rows of 16 pixels. All seeds whose window meets a
tile compete for its pixels, in float32, a row of 16 an instruction. As |p - c|^2 = |p|^2 - 2 p.c +
|c|^2, and |p|^2 is the same for all seeds, a seed costs three multiply-adds a pixel. The few pixels
at which two seeds come too close for float32 are decided again in float64, so that the labels are
those of the float64 program. Only pixels that change hands move the sums behind the centres.
"""

import numpy as np
from numba import njit, uintp

from saliency.regions.colour import lab_epfl, lab_split
from saliency.regions.superpixels import Superpixels, connected

_ITERATIONS = 10
_COMPACTNESS = 20.0
_ROWS, _COLUMNS = 8, 16  # of a tile
_TILE = _ROWS * _COLUMNS
# Of two distances that are nearer than this, float64 decides. With L in [0, 100], a and b within
# +-128, no sum in `_claim` reaches 2^17: each of its five roundings errs by 2^-8 at most, and those
# of what goes into it by less than .01 together. That is below .03 a distance.
_TOLERANCE = np.float32(1 / 16)


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


@njit(cache=True, error_model="numpy")
def _k_means(lab, seed_x, seed_y, reach, spatial_weight, iterations=_ITERATIONS):
    """Label each pixel by the nearest of the seeds whose window holds it; move the seeds; repeat.

    Distance: |dLab|^2 + spatial_weight |dxy|^2. Window: +-reach around the seed, cut to whole
    pixels. `lab` is float64 (3, H, W); returns int32 (H, W) labels. Stops when none changes.
    """
    _, h, w = lab.shape
    n = seed_x.size
    strips, columns = -(-h // _ROWS), -(-w // _COLUMNS)
    tiles = _tiled(lab)
    centre = _first_centres(lab, seed_x, seed_y)
    total = np.zeros((n, 6))  # of each cluster's pixels: L, a, b, x, y, 1
    window = np.empty((n, 4), np.int64)
    down, across = 2 * reach // _ROWS + 2, 2 * reach // _COLUMNS + 2  # tiles that a window may meet
    seeds = np.full((n + 1, 4 + down * _ROWS + across * _COLUMNS), np.inf, np.float32)
    seeds[n, :4] = 0  # a seed that is infinitely far from everything
    first = np.empty(strips * columns + 1, np.int64)
    near = np.empty((n * down * across + first.size, 3), np.int64)
    state = np.empty(columns * 3 * _TILE, np.float32)
    marks = np.empty(columns * _TILE, np.uint8)
    exact = lab, centre, spatial_weight, window  # what float64 decides by

    for iteration in range(iterations):
        _place_windows(centre, reach, h, w, spatial_weight, seeds, down * _ROWS, window)
        _list_near(window, down * _ROWS, columns, first, near)
        changes = 0
        for strip in range(strips):
            for column in range(columns):
                tile = strip * columns + column
                pixels, rivals = uintp(4 * _TILE * tile), uintp(3 * _TILE * column)
                _clear(state, rivals)
                for i in range(first[tile], first[tile + 1], 2):
                    _claim(tiles, pixels, seeds, near, uintp(i), state, rivals)
                _mark(tiles, pixels, state, rivals, marks, uintp(_TILE * column))
            changes += _settle(strip, exact, first, near, tiles, state, marks, total, iteration > 0)
        if changes == 0:
            break
        if iteration == 0:
            _add_all(total, lab, _labels(tiles, h, w))
        for k in range(n):
            if total[k, 5] > 0:
                inverse = 1.0 / total[k, 5]
                for c in range(5):
                    centre[k, c] = total[k, c] * inverse
    return _labels(tiles, h, w)


@njit(cache=True)
def _tiled(lab):
    """Return each pixel's L, a, b and label 0, tile by tile: float32, flat (tiles, 4, _TILE)."""
    _, h, w = lab.shape
    columns = -(-w // _COLUMNS)
    tiles = np.zeros(-(-h // _ROWS) * columns * 4 * _TILE, np.float32)
    for y in range(h):
        for c in range(3):
            for x in range(0, w, _COLUMNS):
                at = _at(y, x, columns) + uintp(c * _TILE)
                for i in range(min(_COLUMNS, w - x)):
                    tiles[at + uintp(i)] = lab[c, y, uintp(x + i)]
    return tiles


@njit(cache=True)
def _labels(tiles, h, w):
    """Return the labels as an image, int32 (H, W)."""
    columns = -(-w // _COLUMNS)
    labels = np.empty((h, w), np.int32)
    for y in range(h):
        for x in range(0, w, _COLUMNS):
            at = _at(y, x, columns) + uintp(3 * _TILE)
            for i in range(min(_COLUMNS, w - x)):
                labels[y, uintp(x + i)] = int(tiles[at + uintp(i)])
    return labels


@njit(cache=True)
def _at(y, x, columns):
    """Where the tiles have L of a pixel."""
    tile = y // _ROWS * columns + x // _COLUMNS
    return uintp(tile * 4 * _TILE + y % _ROWS * _COLUMNS + x % _COLUMNS)


@njit(cache=True)
def _place_windows(centre, reach, h, w, weight, seeds, down, window):
    """Cut the windows to whole pixels, and write what `_claim` needs of each seed.

    window : (x0, x1, y0, y1) of each.
    seeds : label, -2 L, -2 a, -2 b; then, for the rows of all tiles that the window meets,
        |Lab|^2 + weight dy^2; for their columns, weight dx^2. Both are infinite beyond the window.
    """
    for k in range(len(centre)):
        light, a, b, x, y = centre[k, 0], centre[k, 1], centre[k, 2], centre[k, 3], centre[k, 4]
        x0, x1 = int(max(0.0, x - reach)), int(min(float(w), x + reach))
        y0, y1 = int(max(0.0, y - reach)), int(min(float(h), y + reach))
        window[k, 0], window[k, 1], window[k, 2], window[k, 3] = x0, x1, y0, y1
        seeds[k, 0], seeds[k, 1], seeds[k, 2], seeds[k, 3] = k, -2 * light, -2 * a, -2 * b
        seeds[k, 4:] = np.inf
        square = light * light + a * a + b * b
        for i in range(y0, y1):
            seeds[k, 4 + i - y0 // _ROWS * _ROWS] = square + weight * (i - y) ** 2
        for i in range(x0, x1):
            seeds[k, 4 + down + i - x0 // _COLUMNS * _COLUMNS] = weight * (i - x) ** 2


@njit(cache=True)
def _list_near(window, down, columns, first, near):
    """List the seeds whose windows meet a tile, tile by tile, an even number of them each.

    near : a seed, and where it has the tile's rows and columns in `seeds`.
    """
    n = len(window)
    first[:] = 0
    for k in range(n):
        for strip in range(window[k, 2] // _ROWS, (window[k, 3] - 1) // _ROWS + 1):
            for column in range(window[k, 0] // _COLUMNS, (window[k, 1] - 1) // _COLUMNS + 1):
                first[strip * columns + column + 1] += 1
    for tile in range(first.size - 1):
        first[tile + 1] += first[tile] + first[tile + 1] % 2
    near[:, 0], near[:, 1:] = n, 4
    following = first.copy()
    for k in range(n):
        top, left = window[k, 2] // _ROWS, window[k, 0] // _COLUMNS
        for strip in range(top, (window[k, 3] - 1) // _ROWS + 1):
            for column in range(left, (window[k, 1] - 1) // _COLUMNS + 1):
                i = following[strip * columns + column]
                near[i, 0] = k
                near[i, 1] = 4 + (strip - top) * _ROWS
                near[i, 2] = 4 + down + (column - left) * _COLUMNS
                following[strip * columns + column] += 1


@njit(cache=True)
def _clear(state, at):
    """Begin a tile: no owner, and infinite distances of the nearest seed and of the second."""
    for i in range(_TILE):
        state[at + uintp(i)] = -1.0
        state[at + uintp(_TILE + i)] = np.inf
        state[at + uintp(2 * _TILE + i)] = np.inf


@njit(cache=True, error_model="numpy", fastmath={"contract", "nnan", "nsz"})
def _claim(tiles, pixels, seeds, near, i, state, rivals):
    """Let two seeds compete for the pixels of a tile, in float32.

    Unsigned indices keep numba from testing for negative ones, and selections instead of branches
    let LLVM vectorise. Two seeds at a time, because LLVM makes a masked store of the choice between
    what was there and something new, and the next load of the same pixels would wait for it.
    """
    j = i + uintp(1)
    p, q = uintp(near[i, 0]), uintp(near[j, 0])
    label_p, lp, ap, bp = seeds[p, 0], seeds[p, 1], seeds[p, 2], seeds[p, 3]
    label_q, lq, aq, bq = seeds[q, 0], seeds[q, 1], seeds[q, 2], seeds[q, 3]
    down_p, across_p = uintp(near[i, 1]), uintp(near[i, 2])
    down_q, across_q = uintp(near[j, 1]), uintp(near[j, 2])
    for y in range(_ROWS):
        row_p, row_q = seeds[p, down_p + uintp(y)], seeds[q, down_q + uintp(y)]
        for x in range(_COLUMNS):
            t, s = pixels + uintp(y * _COLUMNS + x), rivals + uintp(y * _COLUMNS + x)
            light, a, b = tiles[t], tiles[t + uintp(_TILE)], tiles[t + uintp(2 * _TILE)]
            owner, best, second = state[s], state[s + uintp(_TILE)], state[s + uintp(2 * _TILE)]
            d = seeds[p, across_p + uintp(x)] + row_p + light * lp + a * ap + b * bp
            second = min(second, max(d, best))
            owner = label_p if d < best else owner
            best = min(d, best)
            d = seeds[q, across_q + uintp(x)] + row_q + light * lq + a * aq + b * bq
            state[s + uintp(2 * _TILE)] = min(second, max(d, best))
            state[s] = label_q if d < best else owner
            state[s + uintp(_TILE)] = min(d, best)


@njit(cache=True, error_model="numpy")
def _mark(tiles, pixels, state, rivals, marks, at):
    """Mark the pixels of a tile that have a new owner, or one that float32 cannot tell."""
    for i in range(_TILE):
        before = tiles[pixels + uintp(3 * _TILE + i)]
        owner = state[rivals + uintp(i)]
        owner = owner if owner >= 0 else before
        state[rivals + uintp(i)] = owner
        marks[at + uintp(i)] = (owner != before) | _is_close(state, rivals + uintp(i))


@njit(cache=True, error_model="numpy")
def _is_close(state, at):
    return state[at + uintp(2 * _TILE)] - state[at + uintp(_TILE)] < _TOLERANCE


@njit(cache=True, error_model="numpy")
def _settle(strip, exact, first, near, tiles, state, marks, total, move):
    """Give the marked pixels of a strip their owners, row by row; return how many changed hands.

    The order is the authors', because it decides how the sums are rounded.
    """
    lab = exact[0]
    _, h, w = lab.shape
    columns = -(-w // _COLUMNS)
    words = marks.view(np.uint64)  # eight pixels each, and most of them zero
    changes = 0
    for y in range(strip * _ROWS, min((strip + 1) * _ROWS, h)):
        for left in range(0, w, 8):
            here = left // _COLUMNS * _TILE + y % _ROWS * _COLUMNS + left % _COLUMNS
            if words[uintp(here // 8)] == 0:
                continue
            tile = strip * columns + left // _COLUMNS
            for i in range(min(8, w - left)):
                if not marks[uintp(here + i)]:
                    continue
                x = left + i
                at = _at(y, x, columns) + uintp(3 * _TILE)
                rivals = uintp(left // _COLUMNS * 2 * _TILE + here + i)
                before, owner = int(tiles[at]), int(state[rivals])
                if _is_close(state, rivals):
                    seeds = near[first[tile] : first[tile + 1], 0]
                    owner = _nearest(exact, y, x, seeds, before)
                if owner != before:
                    changes += 1
                    tiles[at] = owner
                    if move:
                        _add(total, before, lab, y, x, -1.0)
                        _add(total, owner, lab, y, x, 1.0)
    return changes


@njit(cache=True, error_model="numpy")
def _nearest(exact, y, x, seeds, unclaimed):
    """The nearest seed of one pixel in float64, the first among equals, as the authors have it."""
    lab, centre, weight, window = exact
    best = np.inf
    owner = unclaimed
    for k in seeds:
        if (
            k < len(window)
            and window[k, 0] <= x < window[k, 1]
            and window[k, 2] <= y < window[k, 3]
        ):
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
def _add_all(total, lab, labels):
    """Add every pixel to its cluster, in raster order."""
    h, w = labels.shape
    for y in range(h):
        x = 0
        while x < w:
            k, start = labels[y, x], x
            sl, sa, sb = total[k, 0], total[k, 1], total[k, 2]
            while x < w and labels[y, x] == k:
                sl += lab[0, y, x]
                sa += lab[1, y, x]
                sb += lab[2, y, x]
                x += 1
            total[k, 0], total[k, 1], total[k, 2] = sl, sa, sb
            total[k, 3] += 0.5 * (x - start) * (start + x - 1)
            total[k, 4] += (x - start) * y
            total[k, 5] += x - start


@njit(cache=True, inline="always")
def _add(total, k, lab, y, x, sign):
    total[k, 0] += sign * lab[0, y, x]
    total[k, 1] += sign * lab[1, y, x]
    total[k, 2] += sign * lab[2, y, x]
    total[k, 3] += sign * x
    total[k, 4] += sign * y
    total[k, 5] += sign
