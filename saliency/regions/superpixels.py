"""Superpixels as runs of equal labels: connected components, colours, positions, contacts.

Everything is gathered from the runs, so the cost follows their number (some thousands), not that of
pixels; only the mean colours, and cutting the runs, visit each pixel, once.
"""

from typing import NamedTuple

import numpy as np
from numba import njit, uintp

_BLOCK = 16


class Superpixels(NamedTuple):
    """A label image as runs of equal labels, row by row.

    labels : int32 (H, W), the superpixel of each pixel, in [0, count).
    count : of superpixels.
    run_label, run_start, run_end : int32 (R,); run r covers columns [run_start[r], run_end[r]).
    row_first : int32 (H + 1,); row y holds the runs [row_first[y], row_first[y + 1]).
    """

    labels: np.ndarray
    count: int
    run_label: np.ndarray
    run_start: np.ndarray
    run_end: np.ndarray
    row_first: np.ndarray


@njit(cache=True)
def connected(rough, smallest):
    """Make every superpixel 4-connected.

    The authors flood components in raster order. One of at most `smallest` pixels joins a
    neighbour: of its first pixel's left, upper, right and lower neighbour, the last that was
    labelled before; the others are numbered as they come. Here components are united from runs,
    the smaller run index as root, so that roots in increasing order are components in raster order
    of their first pixels, and "labelled before" is "of a smaller root".
    """
    h, w = rough.shape
    start, end, row_first = _runs(rough)
    root = _components(rough, start, end, row_first)
    size = np.zeros(root.size, np.int64)
    for r in range(root.size):
        size[root[r]] += end[r] - start[r]

    new = np.full(root.size, -1, np.int32)  # of a component's root: its final label
    label = np.empty(root.size, np.int32)
    count = 0
    neighbour = 0
    for y in range(h):
        for r in range(row_first[y], row_first[y + 1]):
            if root[r] == r:  # the first pixel of a component: look left, up, right, down
                if start[r] > 0:
                    neighbour = new[root[r - 1]]
                if y > 0:
                    neighbour = new[root[_run_at(end, row_first[y - 1], start[r])]]
                if start[r] + 1 < w and end[r] == start[r] + 1:
                    earlier = new[root[r + 1]]
                    neighbour = earlier if earlier >= 0 else neighbour
                if y + 1 < h:  # the run below may be of this very component, still unlabelled
                    earlier = new[root[_run_at(end, row_first[y + 1], start[r])]]
                    neighbour = earlier if earlier >= 0 else neighbour
                if size[r] <= smallest:
                    new[r] = neighbour
                else:
                    new[r] = count
                    count += 1
            label[r] = new[root[r]]
    return _merge_runs(h, w, max(count, 1), label, start, end, row_first)


@njit(cache=True)
def _runs(rough):
    """Cut rows into runs of equal labels; see `Superpixels`."""
    h, w = rough.shape
    runs = h
    for y in range(h):
        for x in range(1, w):
            runs += rough[y, uintp(x)] != rough[y, uintp(x - 1)]
    start = np.empty(runs, np.int32)
    end = np.empty(runs, np.int32)
    row_first = np.empty(h + 1, np.int32)
    r = 0
    for y in range(h):
        row_first[y] = r
        start[r] = 0
        label = rough[y, 0]
        for x in range(1, w):
            if rough[y, uintp(x)] != label:
                label = rough[y, uintp(x)]
                end[r] = x
                r += 1
                start[r] = x
        end[r] = w
        r += 1
    row_first[h] = runs
    return start, end, row_first


@njit(cache=True)
def _components(rough, start, end, row_first):
    """Return the first run of each run's 4-connected component."""
    parent = np.arange(start.size).astype(np.int32)
    for y in range(1, len(rough)):
        above = row_first[y - 1]
        for r in range(row_first[y], row_first[y + 1]):
            above = _run_at(end, above, start[r])
            a = above
            while a < row_first[y] and start[a] < end[r]:
                if rough[y - 1, start[a]] == rough[y, start[r]]:
                    first, second = _root(parent, a), _root(parent, r)
                    parent[max(first, second)] = min(first, second)
                a += 1
    for r in range(parent.size):
        parent[r] = parent[parent[r]]  # that of the parent, an earlier run, is a root already
    return parent


@njit(cache=True, forceinline=True)
def _root(parent, r):
    while parent[r] != r:
        parent[r] = parent[parent[r]]
        r = parent[r]
    return r


@njit(cache=True, forceinline=True)
def _run_at(end, run, column):
    """Return the run of a row, this one or a later one, that holds a column."""
    while end[run] <= column:
        run += 1
    return run


@njit(cache=True)
def _merge_runs(h, w, count, label, start, end, row_first):
    """Join runs that have become equal to their left neighbour, and paint the labels."""
    last = 0
    for y in range(h):
        first, stop = row_first[y], row_first[y + 1]
        row_first[y] = last
        for r in range(first, stop):
            if last > row_first[y] and label[last - 1] == label[r]:
                end[last - 1] = end[r]
            else:
                label[last], start[last], end[last] = label[r], start[r], end[r]
                last += 1
    row_first[h] = last
    labels = _painted(h, w, label[:last], start, end, row_first)
    return Superpixels(labels, count, label[:last], start[:last], end[:last], row_first)


@njit(cache=True)
def _painted(h, w, value, start, end, row_first):
    """Return (H, W) with the value of each run.

    In blocks of 16 pixels, as most runs are shorter; what is too much, the next runs paint over.
    """
    image = np.empty(h * w + _BLOCK, value.dtype)
    for y in range(h):
        for r in range(row_first[y], row_first[y + 1]):
            v = value[r]
            for x in range(y * w + start[r], y * w + end[r], _BLOCK):
                for i in range(_BLOCK):
                    image[uintp(x + i)] = v
    return image[: h * w].reshape(h, w)


@njit(cache=True)
def mean_rgb(s, image):
    """Mean gamma-encoded RGB of each superpixel, float64 (N, 3) in [0, 255] (`GetMeanColor.m`)."""
    h = s.labels.shape[0]
    total = np.zeros((s.count, 3))
    pixels = np.zeros(s.count)
    for y in range(h):
        for r in range(s.row_first[y], s.row_first[y + 1]):
            red, green, blue = 0, 0, 0
            for x in range(s.run_start[r], s.run_end[r]):
                red += image[y, uintp(x), 0]
                green += image[y, uintp(x), 1]
                blue += image[y, uintp(x), 2]
            k = s.run_label[r]
            total[k, 0] += red
            total[k, 1] += green
            total[k, 2] += blue
            pixels[k] += s.run_end[r] - s.run_start[r]
    for k in range(s.count):
        for c in range(3):
            total[k, c] /= pixels[k]
    return total


@njit(cache=True)
def mean_position(s):
    """Mean (row / H, column / W) of each superpixel, rows and columns from 1; float64 (N, 2)."""
    h, w = s.labels.shape
    total = np.zeros((s.count, 2))
    pixels = np.zeros(s.count)
    for y in range(h):
        for r in range(s.row_first[y], s.row_first[y + 1]):
            k = s.run_label[r]
            length = s.run_end[r] - s.run_start[r]
            total[k, 0] += (y + 1) * length
            total[k, 1] += (s.run_start[r] + s.run_end[r] + 1) * length * 0.5
            pixels[k] += length
    for k in range(s.count):
        total[k, 0] /= pixels[k] * h
        total[k, 1] /= pixels[k] * w
    return total


@njit(cache=True)
def contacts(s, corners=False):
    """Which superpixels lie left of or above which: bool (N, N), False on the diagonal.

    Entry (i, j) says that a pixel of i is the left or the upper neighbour of a pixel of j; with
    `corners`, also that it touches a pixel of the row below at a corner (8-neighbours, as MC has
    it). Two superpixels touch where (i, j) or (j, i) holds; with a winding border, often both do.
    """
    h = s.labels.shape[0]
    overhang = 1 if corners else 0
    before = np.zeros((s.count, s.count), np.bool_)
    for y in range(h):
        first, stop = s.row_first[y], s.row_first[y + 1]
        above = s.row_first[y - 1] if y > 0 else 0
        for r in range(first, stop):
            if r > first:
                before[s.run_label[r - 1], s.run_label[r]] = True
            if y > 0:
                while s.run_end[above] + overhang <= s.run_start[r]:
                    above += 1
                a = above
                while a < first and s.run_start[a] < s.run_end[r] + overhang:
                    before[s.run_label[a], s.run_label[r]] = True
                    a += 1
    for i in range(s.count):
        before[i, i] = False
    return before


@njit(cache=True)
def border(s, thickness):
    """Superpixels that have a pixel within `thickness` pixels of the image's edge: bool (N,)."""
    h, w = s.labels.shape
    inside = np.zeros(s.count, np.bool_)
    for y in range(h):
        outer = y < thickness or y >= h - thickness
        for r in range(s.row_first[y], s.row_first[y + 1]):
            if outer or s.run_start[r] < thickness or s.run_end[r] > w - thickness:
                inside[s.run_label[r]] = True
    return inside


@njit(cache=True)
def two_ring(adjacent):
    """Neighbours and neighbours' neighbours of an adjacency with True on its diagonal."""
    n = adjacent.shape[0]
    reached = np.zeros((n, n), np.bool_)
    for i in range(n):
        for j in range(n):
            if adjacent[i, j]:
                for k in range(n):
                    reached[i, k] |= adjacent[j, k]
    return reached


@njit(cache=True)
def distances(points):
    """Euclidean distances between all rows of float64 (N, D); float64 (N, N)."""
    n = len(points)
    d = np.zeros((n, n))
    for i in range(n):
        for j in range(i):
            d[i, j] = _distance(points, i, j)
            d[j, i] = d[i, j]
    return d


@njit(cache=True)
def linked_distances(points, linked):
    """Euclidean distances of linked rows of float64 (N, D): indices i and j < i, int64, and d."""
    n = len(points)
    first = np.empty(n * (n - 1) // 2, np.int64)
    second, d = np.empty_like(first), np.empty(first.size)
    count = 0
    for i in range(n):
        for j in range(i):
            if linked[i, j]:
                first[count], second[count], d[count] = i, j, _distance(points, i, j)
                count += 1
    return first[:count], second[:count], d[:count]


@njit(cache=True, forceinline=True)
def _distance(points, i, j):
    total = 0.0
    for c in range(points.shape[1]):
        difference = points[i, c] - points[j, c]
        total += difference * difference
    return np.sqrt(total)


@njit(cache=True)
def paint(s, values):
    """Give each pixel its superpixel's value: (N,) of any dtype to (H, W) of the same."""
    h, w = s.labels.shape
    return _painted(h, w, values[s.run_label], s.run_start, s.run_end, s.row_first)


@njit(cache=True)
def overlaps(s, t):
    """Pixels that each superpixel shares with each of another segmentation: int64 (N, M)."""
    area = np.zeros((s.count, t.count), np.int64)
    for y in range(s.labels.shape[0]):
        a, x = s.row_first[y], 0
        for b in range(t.row_first[y], t.row_first[y + 1]):
            while x < t.run_end[b]:
                end = min(s.run_end[a], t.run_end[b])
                area[s.run_label[a], t.run_label[b]] += end - x
                x = end
                a += x == s.run_end[a]
    return area


@njit(cache=True)
def paint_overlaps(s, t, values):
    """Give each pixel the value of its two superpixels: (N, M) of any dtype to (H, W)."""
    h, w = s.labels.shape
    image = np.empty((h, w), values.dtype)
    for y in range(h):
        for x in range(w):
            image[y, uintp(x)] = values[s.labels[y, uintp(x)], t.labels[y, uintp(x)]]
    return image
