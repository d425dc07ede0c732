"""Class saliency by the gradient of a class's score, and its segmentation.

References
----------
.. [1] K. Simonyan, A. Vedaldi, A. Zisserman. "Deep Inside Convolutional Networks: Visualising
   Image Classification Models and Saliency Maps". arXiv 1312.6034, sections 3.1 and 3.2.
.. [2] C. Rother, V. Kolmogorov, A. Blake. "GrabCut". SIGGRAPH 2004, as in OpenCV.
"""

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from data.keys import Keys
from saliency.basnet.predict import resize_map
from saliency.classifier import ClassMethod, pixel_scale, to_picture
from saliency.methods.protocol import ClassifierSettings

FOREGROUND_QUANTILE = 0.95
"""Pixels above this quantile of the gradient are sure foreground (section 3.2)."""

BACKGROUND_QUANTILE = 0.30
"""Pixels below this quantile of the gradient are sure background (section 3.2)."""

_SMOOTHING = 1 / 64  # of the side: the gradient is speckled, and seeds should be regions
_ITERATIONS = 3


def class_gradient(
    network: nn.Module, x: Tensor, classes: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Return the largest derivative of a class's score by any channel of a pixel, and the class.

    network : images (N, 3, H, W) to class scores before the softmax, (N, classes); in evaluation
        mode.
    x : (N, 3, H, W), by `saliency.classifier.preprocess`.
    classes : int64 (N,); None takes each image's highest score.

    The gradient is float32 (N, H, W), max over channels c of |d score / d pixel_c|, for pixels in
    [0, 1]; the classes used are int64 (N,).
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

    image : uint8 RGB (h, w, 3).
    gradient : float (h, w), not negative.

    Returns bool (h, w), True on the object; False everywhere when the gradient is the same
    everywhere.

    The gradient is smoothed a little; its upper 5% are sure foreground and its lower 30% sure
    background, as in [1]_; of the rest, the half with the larger gradient starts as foreground, and
    GrabCut decides.
    """
    side = max(gradient.shape)
    smooth = cv2.GaussianBlur(gradient.astype(np.float32), (0, 0), max(side * _SMOOTHING, 0.5))
    half = (BACKGROUND_QUANTILE + FOREGROUND_QUANTILE) / 2
    quantiles = [BACKGROUND_QUANTILE, half, FOREGROUND_QUANTILE]
    low, middle, high = np.quantile(smooth, quantiles)
    if not low < high:
        return np.zeros(gradient.shape, bool)
    seeds = np.full(gradient.shape, cv2.GC_PR_BGD, np.uint8)
    seeds[smooth > middle] = cv2.GC_PR_FGD
    seeds[smooth <= low] = cv2.GC_BGD
    seeds[smooth >= high] = cv2.GC_FGD
    models = np.zeros((1, 65)), np.zeros((1, 65))
    cv2.setRNGSeed(0)  # GrabCut clusters colours from a random start
    bgr = np.ascontiguousarray(image[..., ::-1])
    cv2.grabCut(bgr, seeds, None, *models, _ITERATIONS, cv2.GC_INIT_WITH_MASK)
    return (seeds == cv2.GC_FGD) | (seeds == cv2.GC_PR_FGD)


class Gradient(ClassMethod):
    """The segmented gradient as a method of `saliency-compute`."""

    def maps(self, batch: Tensor, classes: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return the gradients and the classes."""
        return class_gradient(self.network, batch, classes)

    def finish(self, result: np.ndarray, prepared: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        """Segment, blur and resize; a constant gradient gives zeros."""
        saliency = segment(to_picture(prepared), result).astype(np.float32)
        saliency = cv2.GaussianBlur(saliency, (0, 0), 1)  # GrabCut's edge is a pixel's staircase
        return np.clip(resize_map(saliency, size), 0, 1)


def build(settings: ClassifierSettings, keys: Keys) -> Gradient:
    """Load the classifier; see `saliency.methods.protocol.NetworkBuilder`."""
    return Gradient.build("gradient", settings, keys)
