"""The hybrid loss of BASNet: pixels (BCE), patches (SSIM) and the whole map (IoU), section 3.4.

And a robust one, for labels that are wrong in places.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

_RADIUS = 5  # a window of 11x11 pixels
_SIGMA = 1.5
_C1 = 0.01**2
_C2 = 0.03**2
_Q = 0.7  # of the generalised cross-entropy, as published


def _gaussian(length: int, like: Tensor) -> Tensor:
    """The Gaussian window as a (length, length) band matrix: row i weighs the pixels round i."""
    # two products with such a matrix take a fraction of a convolution's time, forward and backward
    row = torch.arange(length, device=like.device, dtype=like.dtype)
    distance = row[:, None] - row
    weights = torch.exp(-(distance**2) / (2 * _SIGMA**2)) * (distance.abs() <= _RADIUS)
    around = torch.arange(-_RADIUS, _RADIUS + 1, device=like.device, dtype=like.dtype)
    return weights / torch.exp(-(around**2) / (2 * _SIGMA**2)).sum()


def _blur(x: Tensor) -> Tensor:
    """Gaussian-weighted local mean of (N, 1, H, W), with zeros outside."""
    height, width = x.shape[-2:]
    return _gaussian(height, x) @ x @ _gaussian(width, x)  # the matrices are symmetric


def ssim(a: Tensor, b: Tensor) -> Tensor:
    """Structural similarity of two maps, per image.

    Wang et al. (2004), Gaussian window of 11 pixels and sigma 1.5, C1 = .01^2, C2 = .03^2, zeros
    outside the map, as in BASNet's training.

    a, b : (N, 1, H, W), values in [0, 1], same shape.

    Returns (N,), the mean over the map; 1 for equal maps.
    """
    n = len(a)
    mean_a, mean_b, mean_aa, mean_bb, mean_ab = _blur(torch.cat([a, b, a * a, b * b, a * b])).split(
        n
    )
    variance_a = mean_aa - mean_a**2
    variance_b = mean_bb - mean_b**2
    covariance = mean_ab - mean_a * mean_b
    similarity = ((2 * mean_a * mean_b + _C1) * (2 * covariance + _C2)) / (
        (mean_a**2 + mean_b**2 + _C1) * (variance_a + variance_b + _C2)
    )
    return similarity.mean(dim=(1, 2, 3))


def iou(probability: Tensor, target: Tensor) -> Tensor:
    """Soft intersection over union of two maps, per image; two empty maps agree (1).

    probability, target : (N, 1, H, W), values in [0, 1], same shape.

    Returns (N,), in [0, 1].
    """
    intersection = (probability * target).sum(dim=(1, 2, 3))
    union = (probability + target).sum(dim=(1, 2, 3)) - intersection
    # The authors divide 0 by 0 for an empty prediction of an empty target.
    return torch.where(union > 0, intersection / union.clamp_min(1e-12), torch.ones_like(union))


def hybrid_loss(logits: tuple[Tensor, ...], target: Tensor) -> Tensor:
    """BCE + (1 - SSIM) + (1 - IoU), summed over the outputs with equal weights.

    logits : outputs before the sigmoid (`BASNet.logits`), each (N, 1, H, W).
    target : ground truth (N, 1, H, W) in [0, 1].

    Returns a scalar, float32 (float64 for float64 input), also under autocast.
    """
    with torch.autocast(target.device.type, enabled=False):
        stacked = torch.cat(logits)  # every output as further rows of the batch
        stacked = stacked if stacked.dtype == torch.float64 else stacked.float()
        repeated = target.to(stacked.dtype).repeat(len(logits), 1, 1, 1)
        probability = torch.sigmoid(stacked)
        cross_entropy = F.binary_cross_entropy_with_logits(stacked, repeated)
        structure = 1 - ssim(probability, repeated).mean()
        overlap = 1 - iou(probability, repeated).mean()
    return len(logits) * (cross_entropy + structure + overlap)


def robust_loss(logits: tuple[Tensor, ...], label: Tensor) -> Tensor:
    """Generalised cross-entropy + (1 - IoU), weighted by the label's certainty, over all outputs.

    With p the probabilities of an output, y the label and w = |2 y - 1|, sums over pixels i:

        sum_i w_i (y_i (1 - p_i^q) + (1 - y_i) (1 - (1 - p_i)^q)) / (q sum_i w_i)  +
        1 - sum_i w_i p_i y_i / sum_i w_i (p_i + y_i - p_i y_i),          q = 0.7

    the first over the batch, the second of each map, averaged. The first (Zhang and Sabuncu,
    NeurIPS 2018, equation 6) lies between cross-entropy (q -> 0) and absolute error (q = 1), which
    wrong labels mislead less; where teachers disagree, y is near 0.5 and next to nothing is learnt.

    logits : outputs before the sigmoid (`BASNet.logits`), each (N, 1, H, W).
    label : (N, 1, H, W) in [0, 1].

    Returns a scalar, float32 (float64 for float64 input), also under autocast.
    """
    with torch.autocast(label.device.type, enabled=False):
        stacked = torch.cat(logits)
        stacked = stacked if stacked.dtype == torch.float64 else stacked.float()
        y = label.to(stacked.dtype).repeat(len(logits), 1, 1, 1)
        weight = (2 * y - 1).abs()
        right = torch.exp(_Q * F.logsigmoid(stacked))  # p^q, with a gradient also where p is 0
        wrong = torch.exp(_Q * F.logsigmoid(-stacked))
        cost = (weight * (1 - y * right - (1 - y) * wrong)).sum() / weight.sum().clamp_min(1e-12)
        p = torch.sigmoid(stacked)
        shared = (weight * p * y).sum(dim=(1, 2, 3))
        joint = (weight * (p + y - p * y)).sum(dim=(1, 2, 3))
        overlap = shared / joint.clamp_min(1e-12)
    return len(logits) * (cost / _Q + 1 - overlap.mean())
