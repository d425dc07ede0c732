"""The losses of instance discrimination: softmax NCE and the original NCE.

Only the features get a gradient (the memory's vectors are constants), and it is a weighted sum of
those vectors. So one pass over the negatives, a chunk at a time, gives the loss and its gradient
together: the logits of all negatives are never stored, and nothing is computed again in the
backward pass.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch

Chunks = Iterable[torch.Tensor]
"""Negatives by chunks: each (C, d), shared by the batch, or (B, C, d), each sample's own."""


class _WithGradient(torch.autograd.Function):
    """Attach a known gradient to a loss: d loss[i] / d features[i] = gradient[i]."""

    @staticmethod
    def forward(ctx, features, loss, gradient):
        ctx.save_for_backward(gradient)
        ctx.dtype = features.dtype
        return loss.clone()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, upstream):
        (gradient,) = ctx.saved_tensors
        return (upstream[:, None] * gradient).to(ctx.dtype), None, None


def _logits(features: torch.Tensor, vectors: torch.Tensor) -> torch.Tensor:
    """Return inner products (B, C) of features (B, d) with vectors (C, d) or (B, C, d)."""
    if vectors.dim() == 2:
        return features @ vectors.T
    return torch.bmm(vectors, features[:, :, None])[:, :, 0]


def _mixture(weights: torch.Tensor, vectors: torch.Tensor) -> torch.Tensor:
    """Return sums (B, d) of vectors (C, d) or (B, C, d) weighted by (B, C)."""
    if vectors.dim() == 2:
        return weights @ vectors
    return torch.bmm(weights[:, None, :], vectors)[:, 0, :]


def _working(features: torch.Tensor) -> torch.Tensor:
    """Return detached features in float32, or in float64 if that is what they are."""
    features = features.detach()
    return features if features.dtype == torch.float64 else features.float()


def softmax_nce(
    features: torch.Tensor,
    positives: torch.Tensor,
    negatives: Chunks,
    temperature: float,
    positive_included: bool = False,
) -> torch.Tensor:
    """Cross-entropy of the positive among the positive and K negatives.

    l = logsumexp(s+, s_1, ..., s_K) - s+ with s = v . f / temperature, by an online logsumexp.
    With the whole memory as negatives and `positive_included` it is the exact non-parametric
    softmax, Wu et al. 2018 (arXiv 1805.01978), eq. 2.

    features : (B, d), L2-normalised; gets the gradient.
    positives : (B, d), each sample's vector in the memory; a constant.
    negatives : chunks (C, d) or (B, C, d); constants.
    temperature : > 0.
    positive_included : the positive is among the negatives already.

    Returns (B,) float32 (float64 for float64 features): each sample's loss, in nats.
    """
    with torch.no_grad(), torch.autocast(features.device.type, enabled=False):
        f = _working(features) / temperature  # of the small factor: no pass over the logits
        l_pos = (f * positives).sum(1)  # (B,)
        if positive_included:
            high = torch.full_like(l_pos, -math.inf)
            total, mixture = torch.zeros_like(l_pos), torch.zeros_like(f)
        else:
            high, total, mixture = l_pos, torch.ones_like(l_pos), positives.to(f.dtype)
        # Invariant over the logits seen so far: total = sum exp(l - high) (B,),
        # mixture = sum exp(l - high) v (B, d).
        for vectors in negatives:
            l_neg = _logits(f, vectors)  # (B, C)
            higher = torch.maximum(high, l_neg.amax(1))
            shrink = (high - higher).exp()
            weights = l_neg.sub_(higher[:, None]).exp_()
            total = total * shrink + weights.sum(1)
            mixture = mixture * shrink[:, None] + _mixture(weights, vectors)
            high = higher
        loss = high + total.log() - l_pos
        gradient = (mixture / total[:, None] - positives) / temperature
    return _WithGradient.apply(features, loss, gradient)


def nce(
    features: torch.Tensor,
    positives: torch.Tensor,
    negatives: Chunks,
    temperature: float,
    log_z: torch.Tensor,
    noise_ratio: float,
) -> torch.Tensor:
    """Noise-contrastive estimation, Wu et al. 2018, eq. 5-7, with a frozen normaliser Z.

    P = exp(v . f / temperature) / Z;  l = -log P+ / (P+ + K/N) - sum_k log (K/N) / (P_k + K/N),
    in logarithms throughout. (The authors' code adds 1e-7 to both denominators; here nothing can
    divide by zero.)

    features, positives, negatives, temperature : as for `softmax_nce`.
    log_z : scalar, from `log_normaliser`.
    noise_ratio : K / N, negatives of a sample over images in the memory.

    Returns (B,) each sample's loss, in nats.
    """
    log_c = math.log(noise_ratio)
    with torch.no_grad(), torch.autocast(features.device.type, enabled=False):
        f = _working(features) / temperature
        log_p = (f * positives).sum(1) - log_z  # (B,)
        loss = -torch.nn.functional.logsigmoid(log_p - log_c)
        gradient = -torch.sigmoid(log_c - log_p)[:, None] * positives
        for vectors in negatives:
            odds = _logits(f, vectors).sub_(log_z + log_c)  # log P_k / (K/N)
            loss = loss + torch.nn.functional.softplus(odds).sum(1)
            gradient = gradient + _mixture(torch.sigmoid(odds), vectors)
        gradient = gradient / temperature
    return _WithGradient.apply(features, loss, gradient)


@torch.no_grad()
def log_normaliser(
    features: torch.Tensor,
    positives: torch.Tensor,
    negatives: Chunks,
    temperature: float,
    images: int,
) -> torch.Tensor:
    """Return log Z for `nce`: Z = N mean exp(v . f / temperature) over a batch's K + 1 logits each.

    As in the authors' code the positive counts among the K + 1. Scalar tensor.
    """
    with torch.autocast(features.device.type, enabled=False):
        f = _working(features)
        sums = [(f * positives).sum(1, keepdim=True) / temperature]  # (B, 1) each
        count = 1
        for vectors in negatives:
            sums.append((_logits(f, vectors) / temperature).logsumexp(1, keepdim=True))
            count += vectors.shape[-2]
        total = torch.cat(sums, 1).logsumexp((0, 1))
        return total - math.log(len(f) * count) + math.log(images)
