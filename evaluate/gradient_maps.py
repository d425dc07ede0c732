"""Where a model looks: gradients of class scores, and how much of them falls on the object.

Simonyan, Vedaldi, Zisserman: Deep Inside Convolutional Networks, 2013: the gradient of a class's
score (before the softmax) by the pixels. A backbone without classes gets its scores from a linear
classifier trained on its features.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import cv2
import numpy as np

from data.images import IMAGENET_STD

if TYPE_CHECKING:
    from torch import Tensor

POINTING_SIGMA = 0.02  # of the image's side: the map is smoothed before its maximum is sought


def pixel_gradients(
    features: Callable[[Tensor], Tensor], weight: Tensor, images: Tensor, labels: Tensor
) -> tuple[Tensor, Tensor]:
    """Gradients of the labels' scores by the pixels, which are taken as values in [0, 1].

    features : (B, 3, S, S), normalised -> (B, D)
    weight : (C, D) of the linear classifier; its bias has no gradient
    images : (B, S, S, 3) uint8
    labels : (B,) int64, the class whose score is differentiated

    Returns gradients (B, 3, S, S) float32, and the features (B, D).
    """
    import torch

    from data.loading import normalise, of_channels

    inputs = normalise(images).requires_grad_(True)
    with torch.enable_grad():
        output = features(inputs)
        (gradient,) = torch.autograd.grad((output * weight[labels]).sum(), inputs)
    return gradient / of_channels(IMAGENET_STD, gradient), output.detach()


def energy(gradient: Tensor) -> Tensor:
    """Energy at each pixel: the sum over channels of squares, (B, 3, S, S) -> (B, S, S)."""
    return gradient.square().sum(dim=1)


def magnitude(gradient: Tensor) -> Tensor:
    """What pictures show: the largest absolute value over channels, (B, 3, S, S) -> (B, S, S)."""
    return gradient.abs().amax(dim=1)


def share_inside(energies: np.ndarray, mask: np.ndarray) -> float:
    """The share of an image's gradient energy inside a mask; NaN where there is no gradient.

    energies : (S, S) >= 0; mask : (S, S) bool
    """
    total = float(energies.sum(dtype=np.float64))
    return float(energies[mask].sum(dtype=np.float64)) / total if total > 0 else float("nan")


def points_inside(magnitudes: np.ndarray, mask: np.ndarray) -> bool:
    """The pointing game (Zhang et al., ECCV 2016): is the smoothed map's maximum in the mask?

    The map is smoothed by a Gaussian of .02 of its side, as TorchRay does (Fong et al., ICCV 2019);
    there is no margin around the mask.
    """
    sigma = POINTING_SIGMA * magnitudes.shape[0]
    smooth = cv2.GaussianBlur(magnitudes.astype(np.float32), (0, 0), sigma)
    return bool(mask.flat[int(smooth.argmax())])


def as_picture(magnitudes: np.ndarray) -> np.ndarray:
    """A gradient map as a picture: (S, S) -> (S, S, 3) uint8, black to yellow.

    Scaled by its 99th percentile, so that a few strong pixels do not leave the rest black.
    """
    top = float(np.percentile(magnitudes, 99)) or float(magnitudes.max()) or 1.0
    levels = np.clip(magnitudes / top * 255, 0, 255).astype(np.uint8)
    return cv2.applyColorMap(levels, cv2.COLORMAP_INFERNO)[..., ::-1]
