"""Lab of RGB, differentiable: CIE 1976 of sRGB, white D65, as scikit-image and OpenCV have it."""

from __future__ import annotations

import torch

from data.images import IMAGENET_MEAN, IMAGENET_STD

_XYZ = (  # of linear RGB, each row divided by the white point's X, Y, Z
    (0.412453 / 0.950456, 0.357580 / 0.950456, 0.180423 / 0.950456),
    (0.212671, 0.715160, 0.072169),
    (0.019334 / 1.088754, 0.119193 / 1.088754, 0.950227 / 1.088754),
)


def denormalised(images: torch.Tensor) -> torch.Tensor:
    """Undo the normalisation by ImageNet's mean and deviation, (B, 3, H, W): RGB in [0, 1]."""
    planes = zip(images.unbind(1), IMAGENET_MEAN, IMAGENET_STD, strict=True)
    return torch.stack([plane * s + m for plane, m, s in planes], 1).clamp(0, 1)


def lab(rgb: torch.Tensor) -> torch.Tensor:
    """Turn sRGB (B, 3, H, W) in [0, 1] into Lab: L in [0, 100], a and b within [-108, 99]."""
    curved = ((rgb.clamp_min(0.04045) + 0.055) / 1.055) ** 2.4
    red, green, blue = torch.where(rgb > 0.04045, curved, rgb / 12.92).unbind(1)
    x, y, z = (_bent(r * red + g * green + b * blue) for r, g, b in _XYZ)
    return torch.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], 1)


def _bent(t: torch.Tensor) -> torch.Tensor:
    """CIE's cube root, straight near 0, where a root would have no gradient."""
    return torch.where(t > 0.008856, t.clamp_min(0.008856) ** (1 / 3), 7.787 * t + 16 / 116)
