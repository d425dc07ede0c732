"""The three RGB to CIE Lab conversions of the authors' code, each as it is there.

All of them read gamma-encoded 8-bit RGB; L comes out in [0, 100], a and b within about +-110. They
differ in the decoding exponent, the white point and the precision. The published maps come out of
these differences, so they are kept apart:

* `SPLIT`: what the SLIC of RBD and GS sees (`Rgb2Lab.h`: exponent 2.2, results in float32);
* `EPFL`: what the SLIC of MC sees (the EPFL code: true sRGB, results in float64);
* `lab_of_means`: what distances between superpixels use (`colorspace.m`: Rec. 709 decoding).
"""

import numpy as np
from numba import int32, njit, uintp

_LEVELS = np.arange(256) / 255.0
_KNEE = 0.008856  # CIE: below it, f is a straight line instead of the cube root
# 4/3 of the bits of 1.0 in float32, less a little to be right on average
_MAGIC = int32(0x54A21D2A)

# Each matrix row is divided by the white point, so that its product is the argument of f.
_SPLIT_DECODE = np.where(_LEVELS > 0.04045, ((_LEVELS + 0.055) / 1.055) ** 2.2, _LEVELS / 12.92)
_SPLIT_MATRIX = np.array(
    [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
) / np.array([[0.9505], [1.0], [1.089]])

_EPFL_DECODE = np.where(_LEVELS > 0.04045, ((_LEVELS + 0.055) / 1.055) ** 2.4, _LEVELS / 12.92)
_EPFL_MATRIX = np.array(
    [
        [0.4339563, 0.3762153, 0.1898430],
        [0.2126729, 0.7151522, 0.0721750],
        [0.0177578, 0.1094756, 0.8728363],
    ]
)

_MEANS_WHITE = np.array([0.950456, 1.0, 1.088754])
_MEANS_MATRIX = np.linalg.inv(
    np.array(
        [
            [3.240479, -1.53715, -0.498535],
            [-0.969256, 1.875992, 0.041556],
            [0.055648, -0.204043, 1.057311],
        ]
    )
)


# Of each conversion: decoded levels, matrix, and the straight line of f near black.
SPLIT = _SPLIT_DECODE, _SPLIT_MATRIX, 7.787, 16.0 / 116.0
EPFL = _EPFL_DECODE, _EPFL_MATRIX, 7.787069, 0.137931


def lab_of_means(rgb: np.ndarray, exponent: float = 1 / 0.45, scale: float = 255.0) -> np.ndarray:
    """Convert the mean colours of superpixels, as the distances between them want it.

    rgb : float64 (N, 3), mean gamma-encoded RGB in [0, 255].
    exponent : RBD and GS decode with 1 / .45; MC writes 2.222.
    scale : RBD and GS divide by 255. MC divides by nothing (1.0): its scale cancels in what
        follows, the shape of the curve does not, and the published maps have it.

    Returns float64 (N, 3).
    """
    encoded = rgb / scale
    linear = ((encoded + 0.099) / 1.099) ** exponent
    linear = np.where(linear < 0.018, encoded / 4.5138, linear)
    t = linear @ _MEANS_MATRIX.T / _MEANS_WHITE
    f = np.where(t > _KNEE, np.cbrt(t), 841.0 / 108.0 * t + 4.0 / 29.0)
    return np.stack(
        [116 * f[:, 1] - 16, 500 * (f[:, 0] - f[:, 1]), 200 * (f[:, 1] - f[:, 2])], axis=1
    )


@njit(cache=True)
def lab_row(image, y, conversion, row):
    """Convert one row of an image by `SPLIT` or `EPFL` into float64 (3, W or more)."""
    decode, m, slope, offset = conversion
    xr, xg, xb = m[0, 0], m[0, 1], m[0, 2]
    yr, yg, yb = m[1, 0], m[1, 1], m[1, 2]
    zr, zg, zb = m[2, 0], m[2, 1], m[2, 2]
    w = image.shape[1]
    for x in range(w):  # apart from what follows, which LLVM vectorises
        i = uintp(x)
        row[0, i] = decode[image[y, i, 0]]
        row[1, i] = decode[image[y, i, 1]]
        row[2, i] = decode[image[y, i, 2]]
    for x in range(w):
        i = uintp(x)
        r, g, b = row[0, i], row[1, i], row[2, i]
        row[0, i] = xr * r + xg * g + xb * b
        row[1, i] = yr * r + yg * g + yb * b
        row[2, i] = zr * r + zg * g + zb * b
    for c in range(3):
        _apply_f(row[c, :w], slope, offset)
    for x in range(w):
        i = uintp(x)
        fx, fy, fz = row[0, i], row[1, i], row[2, i]
        row[0, i], row[1, i], row[2, i] = 116 * fy - 16, 500 * (fx - fy), 200 * (fy - fz)


@njit(cache=True, forceinline=True, error_model="numpy")
def _apply_f(t, slope, offset):
    """Replace each t >= 0 by CIE's f(t): the cube root, or a straight line near black.

    v^(1/3) = v r^2 with r = v^(-1/3). A third of a float's bits is about a third of its logarithm,
    which gives r within 4%. With h = 1 - v r^3 the right r is r (1 - h)^(-1/3), of which the series
    1 + h/3 + 2 h^2/9 + 14 h^3/81 leaves an error of h^4 / 7: once in float32, once in float64.
    No division and no table, so that LLVM vectorises.
    """
    for x in range(t.size):
        v = min(t[x], 1.0)
        u = np.float32(v)
        bits = int32(np.float32(u.view(np.int32)) * np.float32(1 / 3))
        r = np.int32(_MAGIC - bits).view(np.float32)
        h = np.float32(1) - u * r * r * r
        r += r * h * (np.float32(1 / 3) + h * (np.float32(2 / 9) + h * np.float32(14 / 81)))
        s = np.float64(r)
        g = 1.0 - v * s * s * s
        s += s * g * (1 / 3 + g * (2 / 9 + g * (14 / 81)))
        t[x] = v * s * s if v > _KNEE else slope * v + offset
