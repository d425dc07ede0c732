"""The three RGB to CIE Lab conversions of the authors' code, each as it is there.

All of them read gamma-encoded 8-bit RGB; L comes out in [0, 100], a and b within about +-110. They
differ in the decoding exponent, the white point and the precision. The published maps come out of
these differences, so they are kept apart:

* `lab_split`: what the SLIC of RBD and GS sees (`Rgb2Lab.h`: exponent 2.2, results in float32);
* `lab_epfl`: what the SLIC of MC sees (the EPFL code: true sRGB, results in float64);
* `lab_of_means`: what distances between superpixels use (`colorspace.m`: Rec. 709 decoding).
"""

import numpy as np
from numba import int64, njit, uintp

_LEVELS = np.arange(256) / 255.0
_KNEE = 0.008856  # CIE: below it, f is a straight line instead of the cube root

# Cube roots of i / _BINS: linear interpolation between them errs by at most 4e-6 where f is a root,
# and one Halley step takes that below 1e-15. Faster than libm's cbrt by far.
_BINS = 4096
_ROOTS = np.cbrt(np.arange(_BINS + 2) / _BINS)

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


def lab_split(image: np.ndarray) -> np.ndarray:
    """Convert uint8 (H, W, 3) as the SLIC of RBD and GS does.

    Returns float64 (3, H, W): L, a and b, each rounded to float32 as the authors store them.
    """
    return _lab(image, _SPLIT_DECODE, _SPLIT_MATRIX, 7.787, 16.0 / 116.0, True)


def lab_epfl(image: np.ndarray) -> np.ndarray:
    """Convert as the SLIC of MC does; see `lab_split` for shapes. No rounding here."""
    return _lab(image, _EPFL_DECODE, _EPFL_MATRIX, 7.787069, 0.137931, False)


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


@njit(cache=True, error_model="numpy")
def _apply_f(t, slope, offset):
    """Replace each t by CIE's f(t): the cube root, or a straight line near black."""
    for x in range(t.size):
        v = min(max(t[x], 0.0), 1.0)
        position = v * _BINS
        i = uintp(int64(position))
        y = _ROOTS[i] + (position - i) * (_ROOTS[i + uintp(1)] - _ROOTS[i])
        cube = y * y * y
        y *= (cube + 2 * v) / (2 * cube + v)  # Halley's step for y^3 = v
        t[x] = y if v > _KNEE else slope * v + offset


@njit(cache=True, error_model="numpy")
def _lab(image, decode, matrix, slope, offset, round_to_float32):
    h, w, _ = image.shape
    m = matrix
    lab = np.empty((3, h, w))
    fx = np.empty(w)
    fy = np.empty(w)
    fz = np.empty(w)
    for y in range(h):
        for x in range(w):
            r = decode[image[y, x, 0]]
            g = decode[image[y, x, 1]]
            b = decode[image[y, x, 2]]
            fx[x] = m[0, 0] * r + m[0, 1] * g + m[0, 2] * b
            fy[x] = m[1, 0] * r + m[1, 1] * g + m[1, 2] * b
            fz[x] = m[2, 0] * r + m[2, 1] * g + m[2, 2] * b
        _apply_f(fx, slope, offset)
        _apply_f(fy, slope, offset)
        _apply_f(fz, slope, offset)
        for x in range(w):
            lab[0, y, x] = 116 * fy[x] - 16
            lab[1, y, x] = 500 * (fx[x] - fy[x])
            lab[2, y, x] = 200 * (fy[x] - fz[x])
        if round_to_float32:
            for c in range(3):
                for x in range(w):
                    lab[c, y, x] = np.float32(lab[c, y, x])
    return lab
