"""Class saliency by the gradient of a class's score, and its segmentation.

References
----------
.. [1] K. Simonyan, A. Vedaldi, A. Zisserman. "Deep Inside Convolutional Networks: Visualising
   Image Classification Models and Saliency Maps". arXiv 1312.6034, sections 3.1 and 3.2.
.. [2] C. Rother, V. Kolmogorov, A. Blake. "GrabCut". SIGGRAPH 2004, as in OpenCV.
"""

from typing import TYPE_CHECKING

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from data.keys import Keys
from saliency.classifier import pixel_scale
from saliency.methods.protocol import ClassifierSettings

if TYPE_CHECKING:
    from saliency.class_method import ClassMethod

FOREGROUND_QUANTILE = 0.95
"""Pixels above this quantile of the gradient are sure foreground (section 3.2)."""

BACKGROUND_QUANTILE = 0.30
"""Pixels below this quantile of the gradient are sure background (section 3.2)."""

_SMOOTHING = 1 / 64  # of the side: the gradient is speckled, and seeds should be regions
_ITERATIONS = 3


def class_gradient(
    network: nn.Module, x: Tensor, classes: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The largest derivative of a class's score by any channel of a pixel.

    Parameters
    ----------
    network : nn.Module
        Images (N, 3, H, W) to class scores before the softmax, (N, classes); in evaluation mode.
    x : Tensor
        (N, 3, H, W), by `saliency.classifier.preprocess`.
    classes : int64 Tensor, optional
        (N,); None takes each image's highest score.

    Returns
    -------
    gradient : float32 Tensor
        (N, H, W), max over channels c of |d score / d pixel_c|, for pixels in [0, 1].
    classes : int64 Tensor
        (N,), the classes used.
    """
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        scores = network(x)
        if classes is None:
            classes = scores.argmax(dim=1)
        total = scores.gather(1, classes[:, None]).sum()  # each score depends on its image only
        (gradient,) = torch.autograd.grad(total, x)
    return (gradient.float() * pixel_scale(gradient.float())).abs().amax(dim=1), classes


def segment(image: np.ndarray, gradient: np.ndarray) -> np.ndarray:
    """Cut out the object that a gradient points at, by GrabCut on the image's colours.

    Parameters
    ----------
    image : uint8 array, (h, w, 3)
        RGB.
    gradient : float array, (h, w)
        Not negative; of the same size.

    Returns
    -------
    bool array, (h, w)
        True on the object; False everywhere when the gradient is the same everywhere.

    Notes
    -----
    The gradient is smoothed a little; its upper 5% are sure foreground and its lower 30% sure
    background, as in [1]_; of the rest, the half with the larger gradient starts as foreground, and
    GrabCut decides.
    """
    side = max(gradient.shape)
    smooth = cv2.GaussianBlur(gradient.astype(np.float32), (0, 0), max(side * _SMOOTHING, 0.5))
    low, middle, high = np.quantile(
        smooth,
        [
            BACKGROUND_QUANTILE,
            (BACKGROUND_QUANTILE + FOREGROUND_QUANTILE) / 2,
            FOREGROUND_QUANTILE,
        ],
    )
    if not low < high:
        return np.zeros(gradient.shape, bool)
    seeds = np.full(gradient.shape, cv2.GC_PR_BGD, np.uint8)
    seeds[smooth > middle] = cv2.GC_PR_FGD
    seeds[smooth <= low] = cv2.GC_BGD
    seeds[smooth >= high] = cv2.GC_FGD
    models = np.zeros((1, 65)), np.zeros((1, 65))
    cv2.setRNGSeed(0)  # GrabCut clusters colours from a random start
    cv2.grabCut(
        np.ascontiguousarray(image[..., ::-1]),
        seeds,
        None,
        *models,
        _ITERATIONS,
        cv2.GC_INIT_WITH_MASK,
    )
    return (seeds == cv2.GC_FGD) | (seeds == cv2.GC_PR_FGD)


def build(settings: ClassifierSettings, keys: Keys) -> "ClassMethod":
    """Load the classifier; see `saliency.methods.protocol.NetworkBuilder`."""
    from saliency.class_method import build

    return build("gradient", settings, keys)
