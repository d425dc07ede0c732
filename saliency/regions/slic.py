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
those of the float64 program. Only pixels that change hands move the sums behind the centres. What
a tile needs stays in the first cache until the tile is done; the kernels of a tile are inlined by
LLVM (`forceinline`), because handing them their arrays took longer than some of them.
"""

import numpy as np
from numba import njit, uintp

from saliency.regions.colour import EPFL, SPLIT, lab_row
from saliency.regions.superpixels import Superpixels, connected

_ITERATIONS = 10
_COMPACTNESS = 20.0
_ROWS, _COLUMNS = 8, 16  # of a tile
_TILE = _ROWS * _COLUMNS
# Of two distances that are nearer than this, float64 decides. With L in [0, 100], a and b within
# +-128, no sum in `_compete` reaches 2^17: each of its five roundings errs by 2^-8 at most, and
# those of what goes into it by less than .01 together. That is below .03 a distance.
_TOLERANCE = np.float32(1 / 16)


def slic_split(image: np.ndarray, pixels_per_superpixel: float = 600.0) -> Superpixels:
    """Cut uint8 (H, W, 3) RGB into superpixels of about so many pixels each, as RBD and GS do."""
    h, w = image.shape[:2]
    wanted = max(1, int(h * w / pixels_per_superpixel + 0.5))
    side = max(3, int(np.sqrt(h * w / wanted) + 0.5))
    seeds = _seeds_split(h, w, side)
    rough = _rough(image, SPLIT, np.float32, *seeds, side, (_COMPACTNESS / side) ** 2)
    return connected(rough, side * side // 4)


def slic_epfl(image: np.ndarray, superpixels: int = 250) -> Superpixels:
    """Cut uint8 (H, W, 3) RGB into about so many superpixels, as MC does."""
    h, w = image.shape[:2]
    step = max(1, int(np.sqrt(int(0.5 + h * w / superpixels)) + 0.5))
    wanted = max(1, int(h * w / (step * step)))
    seeds = _seeds_epfl(h, w, step)
    rough = _rough(image, EPFL, np.float64, *seeds, step, 1.0 / (step / _COMPACTNESS) ** 2)
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


def _rough(image, conversion, dtype, *how):
    """Return `_k_means` of an image, its colours converted and stored as the authors do."""
    exact = _tiled(image, conversion, dtype)
    return _k_means(exact, exact.astype(np.float32, copy=False), *image.shape[:2], *how)


@njit(cache=True)
def _aligned(size, dtype):
    """Return an empty array that begins where a line of the cache does, as its rows then do too."""
    room = np.empty(size + 64, dtype)
    start = -room.ctypes.data % 64 // room.itemsize
    return room[start : start + size]


@njit(cache=True)
def _tiled(image, conversion, dtype):
    """Return L, a and b of each pixel, tile by tile, 0 beyond: (tiles, 3, _TILE), flat."""
    h, w, _ = image.shape
    columns = -(-w // _COLUMNS)
    tiles = _aligned(-(-h // _ROWS) * columns * 3 * _TILE, dtype)
    row = np.zeros((3, columns * _COLUMNS))
    for y in range(-(-h // _ROWS) * _ROWS):
        if y < h:
            lab_row(image, y, conversion, row)
        else:
            row[:] = 0
        for column in range(columns):
            at = uintp((y // _ROWS * columns + column) * 3 * _TILE + y % _ROWS * _COLUMNS)
            left = uintp(column * _COLUMNS)
            for x in range(_COLUMNS):
                i, j = at + uintp(x), left + uintp(x)
                tiles[i] = row[0, j]
                tiles[i + uintp(_TILE)] = row[1, j]
                tiles[i + uintp(2 * _TILE)] = row[2, j]
    return tiles


@njit(cache=True, error_model="numpy")
def _k_means(exact, tiles, h, w, seed_x, seed_y, reach, spatial_weight, iterations=_ITERATIONS):
    """Label each pixel by the nearest of the seeds whose window holds it; move the seeds; repeat.

    Distance: |dLab|^2 + spatial_weight |dxy|^2. Window: +-reach around the seed, cut to whole
    pixels. Returns int32 (H, W) labels. Stops when none changes.

    exact : Lab, as `_tiled` gives it; tiles : the same in float32.
    """
    strips, columns = -(-h // _ROWS), -(-w // _COLUMNS)
    n = seed_x.size
    labels = _aligned(strips * columns * _TILE, np.float32)
    labels[:] = 0
    clusters = _first_clusters(exact, h, w, columns, seed_x, seed_y)
    total = np.zeros((n, 6))  # of each cluster's pixels: L, a, b, x, y, 1
    down, across = 2 * reach // _ROWS + 2, 2 * reach // _COLUMNS + 2  # tiles that a window may meet
    seeds = np.full((n + 1, 3 + down * _ROWS + across * _COLUMNS), np.inf, np.float32)
    seeds[n, :3] = 0  # a seed that is infinitely far from everything
    origin = np.full((n + 1, 3), 3)  # of each seed, where `seeds` would have row 0 and column 0
    origin[:, 2] = np.arange(n + 1) < n
    first = np.empty(strips * columns + 1, np.int32)
    near = np.empty(n * down * across + first.size, np.int32)
    state = _aligned(3 * _TILE, np.float32)
    words, places = np.empty(_TILE // 8, np.uint64), np.empty(_TILE + 1, np.uint8)
    marks = words.view(np.uint8)

    for iteration in range(iterations):
        _place_windows(clusters, reach, h, w, spatial_weight, seeds, down * _ROWS, origin)
        _list_near(clusters, columns, first, near)
        changes = 0
        for strip in range(strips):
            for column in range(columns):
                tile = strip * columns + column
                at = uintp(_TILE * tile)
                top, left = strip * _ROWS, column * _COLUMNS
                _compete(tiles, labels, at, seeds, origin, top, left, near, first, tile, state)
                doubtful, close = _list_doubtful(state, labels, at, marks, words, places)
                if close:
                    _decide(
                        *(state, labels, at, places, doubtful, exact, clusters, spatial_weight),
                        *(first, near, tile, top, left),
                    )
                if doubtful:
                    changes += _settle(
                        *(state, labels, at, places, doubtful, exact, total),
                        *(top, left, iteration > 0),
                    )
                if iteration == 0:
                    _add_all(total, exact, labels, at, top, left, h, w)
        if changes == 0:
            break
        for k in range(n):
            if total[k, 5] > 0:
                inverse = 1.0 / total[k, 5]
                for c in range(5):
                    clusters[k, c] = total[k, c] * inverse
    return _image(labels, h, w)


@njit(cache=True)
def _image(labels, h, w):
    """Return labels tile by tile as an image, int32 (H, W)."""
    columns = -(-w // _COLUMNS)
    image = np.empty((h, w), np.int32)
    for y in range(h):
        for left in range(0, w, _COLUMNS):
            at = _at(y, left, columns)
            for x in range(min(_COLUMNS, w - left)):
                image[y, uintp(left + x)] = int(labels[at + uintp(x)])
    return image


@njit(cache=True)
def _at(y, x, columns):
    """Where the labels, tile by tile, have a pixel."""
    tile = y // _ROWS * columns + x // _COLUMNS
    return uintp(tile * _TILE + y % _ROWS * _COLUMNS + x % _COLUMNS)


@njit(cache=True)
def _place_windows(clusters, reach, h, w, weight, seeds, down, origin):
    """Cut the windows to whole pixels, and write what `_compete` needs of each seed.

    seeds : -2 L, -2 a, -2 b; then, for the rows of all tiles that the window meets, |Lab|^2 +
        weight dy^2; for their columns, weight dx^2. Both are infinite beyond the window.
    """
    for k in range(len(clusters)):
        cluster, seed = clusters[k], seeds[k]
        light, a, b, x, y = cluster[0], cluster[1], cluster[2], cluster[3], cluster[4]
        x0, x1 = int(max(0.0, x - reach)), int(min(float(w), x + reach))
        y0, y1 = int(max(0.0, y - reach)), int(min(float(h), y + reach))
        cluster[5], cluster[6], cluster[7], cluster[8] = x0, x1, y0, y1
        origin[k, 0] = 3 - y0 // _ROWS * _ROWS
        origin[k, 1] = 3 + down - x0 // _COLUMNS * _COLUMNS
        seed[0], seed[1], seed[2] = -2 * light, -2 * a, -2 * b
        seed[3:] = np.inf
        square = light * light + a * a + b * b
        for i in range(y0, y1):
            seed[uintp(origin[k, 0] + i)] = square + weight * (i - y) ** 2
        for i in range(x0, x1):
            seed[uintp(origin[k, 1] + i)] = weight * (i - x) ** 2


@njit(cache=True)
def _list_near(clusters, columns, first, near):
    """List the seeds whose windows meet a tile, tile by tile, an even number of them each."""
    n = len(clusters)
    first[:] = 0
    for k in range(n):
        left, right, top, bottom = _tiles_met(clusters[k])
        for strip in range(top, bottom):
            for tile in range(strip * columns + left, strip * columns + right):
                first[uintp(tile + 1)] += 1
    for tile in range(first.size - 1):
        first[tile + 1] += first[tile] + first[tile + 1] % 2
    near[: first[-1]] = n
    following = first.copy()
    for k in range(n):
        left, right, top, bottom = _tiles_met(clusters[k])
        for strip in range(top, bottom):
            for tile in range(strip * columns + left, strip * columns + right):
                near[uintp(following[uintp(tile)])] = k
                following[uintp(tile)] += 1


@njit(cache=True)
def _tiles_met(cluster):
    """The columns and strips of tiles that a window meets, the last ones excluded."""
    left, right = int(cluster[5]) // _COLUMNS, (int(cluster[6]) - 1) // _COLUMNS + 1
    return left, right, int(cluster[7]) // _ROWS, (int(cluster[8]) - 1) // _ROWS + 1


@njit(cache=True, forceinline=True, error_model="numpy", fastmath={"contract", "nnan", "nsz"})
def _compete(tiles, labels, at, seeds, origin, top, left, near, first, tile, state):
    """Let the seeds near a tile compete for its pixels, in float32.

    Unsigned indices keep numba from testing for negative ones, and selections instead of branches
    let LLVM vectorise. Two seeds at a time, because LLVM makes a masked store of the choice between
    what was there and something new, and the next load of the same pixels would wait for it.
    """
    for x in range(_TILE):  # owners as before, and infinite distances of the nearest and the second
        i = uintp(x)
        state[i] = labels[at + i]
        state[i + uintp(_TILE)] = np.inf
        state[i + uintp(2 * _TILE)] = np.inf
    for j in range(first[tile], first[tile + 1], 2):
        p, q = uintp(near[uintp(j)]), uintp(near[uintp(j + 1)])
        label_p, lp, ap, bp = np.float32(p), seeds[p, 0], seeds[p, 1], seeds[p, 2]
        label_q, lq, aq, bq = np.float32(q), seeds[q, 0], seeds[q, 1], seeds[q, 2]
        down_p, across_p = uintp(origin[p, 0] + top), uintp(origin[p, 1] + left)
        down_q = uintp(origin[q, 0] + origin[q, 2] * top)
        across_q = uintp(origin[q, 1] + origin[q, 2] * left)
        for y in range(_ROWS):
            row_p, row_q = seeds[p, down_p + uintp(y)], seeds[q, down_q + uintp(y)]
            for x in range(_COLUMNS):
                s = uintp(y * _COLUMNS + x)
                t = uintp(3) * at + s
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
def _is_close(state, i):
    return state[i + uintp(2 * _TILE)] - state[i + uintp(_TILE)] < _TOLERANCE


@njit(cache=True, forceinline=True, error_model="numpy")
def _list_doubtful(state, labels, at, marks, words, places):
    """List the pixels of a tile that have a new owner, or one that float32 cannot tell.

    Returns how many, and whether there are any of the latter.

    words : the marks again, eight pixels each, and most of them zero.
    """
    for x in range(_TILE):
        i = uintp(x)
        marks[i] = 3 if _is_close(state, i) else state[i] != labels[at + i]
    count, close = uintp(0), uintp(0)
    for word in range(_TILE // 8):
        if words[uintp(word)] != 0:
            for x in range(8):  # no branch: which pixels change hands, no processor foresees
                i = uintp(8 * word + x)
                places[count] = i
                count += uintp(marks[i]) & uintp(1)
                close |= uintp(marks[i])
    return count, close > 1


@njit(cache=True, error_model="numpy")
def _decide(
    state, labels, at, places, doubtful, exact, clusters, weight, first, near, tile, top, left
):
    """Find in float64 the owners that float32 cannot tell; the first among equals."""
    for j in range(doubtful):
        i = uintp(places[uintp(j)])
        if not _is_close(state, i):
            continue
        y, x = top + i // uintp(_COLUMNS), left + i % uintp(_COLUMNS)
        pixel = uintp(3) * at + i
        best = np.inf
        state[i] = labels[at + i]
        for k in near[first[tile] : first[tile + 1]]:
            if k < len(clusters):
                c = clusters[k]
                if c[5] <= x < c[6] and c[7] <= y < c[8]:
                    dl = exact[pixel] - c[0]
                    da = exact[pixel + uintp(_TILE)] - c[1]
                    db = exact[pixel + uintp(2 * _TILE)] - c[2]
                    dx, dy = x - c[3], y - c[4]
                    d = dl * dl + da * da + db * db + (dx * dx + dy * dy) * weight
                    if d < best:
                        best = d
                        state[i] = k


@njit(cache=True, forceinline=True, error_model="numpy")
def _settle(state, labels, at, places, doubtful, exact, total, top, left, move):
    """Give the listed pixels of a tile their owners; return how many changed hands."""
    changes = 0
    for j in range(doubtful):
        i = uintp(places[uintp(j)])
        before, after = uintp(labels[at + i]), uintp(state[i])
        if before == after:
            continue
        changes += 1
        labels[at + i] = state[i]
        if move:
            y, x = top + i // uintp(_COLUMNS), left + i % uintp(_COLUMNS)
            _add(total, before, exact, uintp(3) * at + i, x, y, -1.0)
            _add(total, after, exact, uintp(3) * at + i, x, y, 1.0)
    return changes


@njit(cache=True)
def _first_clusters(exact, h, w, columns, seed_x, seed_y):
    """Return L, a, b, x, y of each seed, and room for its window: x0, x1, y0, y1."""
    clusters = np.empty((seed_x.size, 9))
    for k in range(seed_x.size):
        x, y = min(int(seed_x[k]), w - 1), min(int(seed_y[k]), h - 1)
        at = 2 * (y // _ROWS * columns + x // _COLUMNS) * _TILE + _at(y, x, columns)
        for c in range(3):
            clusters[k, c] = exact[at + c * _TILE]
        clusters[k, 3], clusters[k, 4] = seed_x[k], seed_y[k]
    return clusters


@njit(cache=True)
def _add_all(total, exact, labels, at, top, left, h, w):
    """Add the pixels of a tile to their clusters, run by run."""
    for y in range(min(_ROWS, h - top)):
        i, stop = uintp(y * _COLUMNS), uintp(y * _COLUMNS + min(_COLUMNS, w - left))
        x = left
        while i < stop:
            k, start = uintp(labels[at + i]), x
            light, a, b = 0.0, 0.0, 0.0
            while i < stop and uintp(labels[at + i]) == k:
                light += exact[uintp(3) * at + i]
                a += exact[uintp(3) * at + i + uintp(_TILE)]
                b += exact[uintp(3) * at + i + uintp(2 * _TILE)]
                i += uintp(1)
                x += 1
            total[k, 0] += light
            total[k, 1] += a
            total[k, 2] += b
            total[k, 3] += 0.5 * (x - start) * (start + x - 1)
            total[k, 4] += (x - start) * (top + y)
            total[k, 5] += x - start


@njit(cache=True, inline="always")
def _add(total, k, exact, i, x, y, sign):
    total[k, 0] += sign * exact[i]
    total[k, 1] += sign * exact[i + uintp(_TILE)]
    total[k, 2] += sign * exact[i + uintp(2 * _TILE)]
    total[k, 3] += sign * x
    total[k, 4] += sign * y
    total[k, 5] += sign
