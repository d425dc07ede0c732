"""Precision, recall and F-measure of saliency maps, by the benchmark's definitions.

Borji, Cheng, Jiang, Li: Salient Object Detection: A Benchmark, TIP 2015; the F-measure with
beta² = .3 is Achanta et al., CVPR 2009. Precision and recall are averaged over images at each of
the 256 thresholds, and F is taken of the averages. Several Python packages average F over images
instead, which gives other numbers.
"""

from dataclasses import dataclass

import numpy as np

BETA2 = 0.3
THRESHOLDS = 256


def normalise(saliency: np.ndarray) -> np.ndarray:
    """Stretch a saliency map, (h, w) uint8, so that its smallest value is 0 and its largest 255.

    Returns (h, w) uint8, rounded half up as MATLAB does; a constant map becomes all 0.
    """
    low, high = int(saliency.min()), int(saliency.max())
    if (low, high) == (0, 255):
        return saliency
    if low == high:
        return np.zeros_like(saliency)
    levels = np.clip(np.arange(256.0) - low, 0, high - low)
    return np.floor(levels * (255 / (high - low)) + 0.5).astype(np.uint8)[saliency]


def precision_recall(saliency: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Precision and recall of one normalised map, binarised as `saliency >= t` for t = 0..255.

    One joint histogram and its cumulative sums give all 256 thresholds at once.

    saliency : (h, w) uint8, normalised;  truth : (h, w) bool with at least one True

    Returns precision and recall, (256,) float64 in [0, 1]; precision is 0 where nothing is
    predicted.
    """
    joint = saliency + np.left_shift(truth, 8, dtype=np.uint16)
    counts = np.bincount(joint.ravel(), minlength=2 * THRESHOLDS).reshape(2, THRESHOLDS)
    above = counts[:, ::-1].cumsum(axis=1)[:, ::-1]  # (2, 256): background, foreground at >= t
    predicted = above.sum(axis=0)
    return above[1] / np.maximum(predicted, 1), above[1] / above[1, 0]


@dataclass(frozen=True)
class Curve:
    """Precision and recall averaged over images, each (256,) float64, threshold 0 first."""

    precision: np.ndarray
    recall: np.ndarray

    def f_measure(self) -> np.ndarray:
        """F at every threshold, (256,): (1 + beta²) P R / (beta² P + R), 0 where both are 0."""
        denominator = BETA2 * self.precision + self.recall
        product = (1 + BETA2) * self.precision * self.recall
        return np.divide(product, denominator, out=np.zeros_like(product), where=denominator > 0)

    @property
    def max_f(self) -> float:
        """The largest F over the thresholds."""
        return float(self.f_measure().max())

    @property
    def mean_f(self) -> float:
        """The mean of F over the 256 thresholds."""
        return float(self.f_measure().mean())
