"""What saliency methods know about superpixels: colours, positions, contacts, the border.

Everything is gathered from the runs of `slic.Superpixels`, so the cost follows the number
of runs (some thousands), not of pixels; only the mean colours visit each pixel, once.
"""

import numpy as np
from numba import njit

from saliency.regions.slic import Superpixels


def contacts(superpixels: Superpixels, corners: bool = False) -> np.ndarray:
    """Which superpixels lie left of or above which: bool (N, N), False on the diagonal.

    Entry (i, j) says that a pixel of i is the left or the upper neighbour of a pixel of j; with
    `corners`, also that it touches one of the row below at a corner (8-neighbours, as MC has it).
    Two superpixels touch where (i, j) or (j, i) holds; with a winding border, often both do.
    """
    return _contacts(superpixels, 1 if corners else 0)


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
                red += image[y, x, 0]
                green += image[y, x, 1]
                blue += image[y, x, 2]
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
def _contacts(s, overhang):
    """Runs of neighbouring rows touch where they overlap, with `overhang` 1 also at corners."""
    h = s.labels.shape[0]
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
    n, dimensions = points.shape
    d = np.zeros((n, n))
    for i in range(n):
        for j in range(i):
            total = 0.0
            for c in range(dimensions):
                difference = points[i, c] - points[j, c]
                total += difference * difference
            d[i, j] = np.sqrt(total)
            d[j, i] = d[i, j]
    return d


@njit(cache=True)
def paint(s, values):
    """Give each pixel its superpixel's value: (N,) of any dtype to (H, W) of the same."""
    h, w = s.labels.shape
    image = np.empty((h, w), values.dtype)
    for y in range(h):
        for r in range(s.row_first[y], s.row_first[y + 1]):
            image[y, s.run_start[r] : s.run_end[r]] = values[s.run_label[r]]
    return image
