"""Bilinear sampling at fractional positions: the kernel below `data.images.crop.sample_box`.

OpenCV's `resize` takes no fractional offset, and its `warpAffine` costs three times as much and
rounds positions to 1/32 of a pixel.
"""

import numpy as np

from data.processes import ensure_kernel_cache

ensure_kernel_cache()

from numba import float32, float64, int32, int64, njit, types, uint8, uintp, void  # noqa: E402

# A function that takes read-only arrays takes all of them.
_row_type = types.Array(uint8, 1, "C", readonly=True)
_rows_type = types.Array(uint8, 2, "C", readonly=True)
_positions_type = void(float64, float64, int64, int32[::1], float32[::1])
_sample_type = void(_rows_type, int64, *[float64] * 4, uint8[:, ::1])


# Compiled at import, that is before a loader's workers are forked: they all have it then.
@njit(_positions_type, cache=True, error_model="numpy")
def _positions(first, step, length, before, share):
    """For each sample, the pixel before it, and the share of the next.

    Sample i lies at pixel index first + i * step, moved into [0, length - 1].
    """
    for i in range(len(before)):
        position = min(max(first + i * step, 0.0), length - 1.0)
        before[i] = min(int(position), max(length - 2, 0))
        share[i] = position - before[i]


# Each loop in a function of its own, so that the compiler sees how simple it is.
@njit(void(_row_type, int64, int64, float32[::1]), cache=True)
def _widen(row, start, stop, wide):
    for x in range(uintp(start), uintp(stop)):
        wide[x] = row[x]


@njit(void(float32[::1], int32[::1], int32, float32[::1], float32[::1]), cache=True)
def _across(wide, here, beside, share, out):
    for i in range(uintp(len(out))):
        at = here[i]
        value = wide[uintp(at)]
        out[i] = value + share[i] * (wide[uintp(at + beside)] - value)


@njit(void(float32[::1], float32[::1], float32, uint8[::1]), cache=True)
def _between(above, below, share, out):
    for i in range(uintp(len(out))):
        out[i] = int32(above[i] + share * (below[i] - above[i]) + float32(0.5))


@njit(_sample_type, cache=True, error_model="numpy")
def sample_grid(rows, channels, first_y, first_x, step_y, step_x, sampled):
    """Sample an array on a regular grid; positions outside of it repeat its border.

    rows : uint8 (H, W * channels), C-contiguous, not empty
    first_y, first_x : the first sample's position, in pixel indices
    step_y, step_x : from one sample to the next, in pixels
    sampled : uint8 (h, w * channels), C-contiguous; written to, rounded to the nearest level
    """
    height, width = rows.shape[0], rows.shape[1] // channels
    count = sampled.shape[1] // channels
    above, share_y = np.empty(len(sampled), np.int32), np.empty(len(sampled), np.float32)
    left, share_x = np.empty(count, np.int32), np.empty(count, np.float32)
    _positions(first_y, step_y, height, above, share_y)
    _positions(first_x, step_x, width, left, share_x)
    # The same per element of a row, channels side by side.
    here, share = np.empty(count * channels, np.int32), np.empty(count * channels, np.float32)
    for i in range(count):
        for channel in range(channels):
            here[i * channels + channel] = left[i] * channels + channel
            share[i * channels + channel] = share_x[i]
    beside = int32(channels if width > 1 else 0)
    start, stop = left[0] * channels, (left[-1] + 1) * channels + beside
    wide = np.empty(rows.shape[1], np.float32)
    # Of the two rows around a sample, each resampled across, the even row lies in 0, the odd in 1.
    across = np.empty((2, count * channels), np.float32)
    held = np.full(2, -1)
    for y in range(len(sampled)):
        upper, lower = above[y], min(above[y] + 1, height - 1)
        for row in range(upper, lower + 1):
            if held[row % 2] != row:
                held[row % 2] = row
                _widen(rows[row], start, stop, wide)
                _across(wide, here, beside, share, across[row % 2])
        _between(across[upper % 2], across[lower % 2], share_y[y], sampled[y])
