"""The hybrid loss against its equations in float64, pixel by pixel."""

import math

import numpy as np
import torch

from saliency.basnet.loss import hybrid_loss, iou, ssim


def plain_ssim(a, b):
    """Mean SSIM of two (h, w) maps: an 11x11 Gaussian window round every pixel, zeros outside."""
    weights = np.array(
        [[math.exp(-(i * i + j * j) / (2 * 1.5**2)) for j in range(-5, 6)] for i in range(-5, 6)]
    )
    weights /= weights.sum()
    a, b = np.pad(a, 5), np.pad(b, 5)
    values = []
    for i in range(a.shape[0] - 10):
        for j in range(a.shape[1] - 10):
            p, q = a[i : i + 11, j : j + 11], b[i : i + 11, j : j + 11]
            mp, mq = (weights * p).sum(), (weights * q).sum()
            vp = (weights * p * p).sum() - mp**2
            vq = (weights * q * q).sum() - mq**2
            cov = (weights * p * q).sum() - mp * mq
            c1, c2 = 1e-4, 9e-4
            values.append(
                (2 * mp * mq + c1) * (2 * cov + c2) / ((mp**2 + mq**2 + c1) * (vp + vq + c2))
            )
    return np.mean(values)


def plain_loss(outputs, target):
    """Sum over outputs of BCE + 1 - SSIM + 1 - IoU; lists of (N, h, w) probabilities."""
    total = 0.0
    for p in outputs:
        bce = -np.mean(target * np.log(p) + (1 - target) * np.log(1 - p))
        structure = np.mean([plain_ssim(a, b) for a, b in zip(p, target, strict=True)])
        overlap = np.mean(
            [
                (a * b).sum() / (a.sum() + b.sum() - (a * b).sum())
                for a, b in zip(p, target, strict=True)
            ]
        )
        total += bce + (1 - structure) + (1 - overlap)
    return total


def sample(n=2, h=14, w=17, outputs=8):
    rng = np.random.default_rng(0)
    logits = [torch.tensor(rng.normal(size=(n, 1, h, w)) * 2) for _ in range(outputs)]
    target = torch.tensor((rng.random((n, 1, h, w)) > 0.6).astype(np.float64))
    return logits, target


def test_ssim_equals_its_definition_per_image():
    logits, target = sample()
    p = torch.sigmoid(logits[0])
    expected = [plain_ssim(a[0].numpy(), b[0].numpy()) for a, b in zip(p, target, strict=True)]
    np.testing.assert_allclose(ssim(p, target).numpy(), expected, rtol=1e-10)
    np.testing.assert_allclose(ssim(target, target).numpy(), 1, rtol=1e-10)


def test_iou_equals_its_definition_and_accepts_empty_maps():
    a = torch.tensor([[[[1.0, 0.5], [0.0, 0.0]]], [[[0.0, 0.0], [0.0, 0.0]]]])
    b = torch.tensor([[[[1.0, 0.0], [1.0, 0.0]]], [[[0.0, 0.0], [0.0, 0.0]]]])
    np.testing.assert_allclose(iou(a, b).numpy(), [1 / 2.5, 1])


def test_hybrid_loss_equals_its_definition_over_eight_outputs():
    logits, target = sample()
    outputs = [torch.sigmoid(x)[:, 0].numpy() for x in logits]
    expected = plain_loss(outputs, target[:, 0].numpy())
    assert math.isclose(hybrid_loss(tuple(logits), target).item(), expected, rel_tol=1e-10)
    single = hybrid_loss(tuple(x.float() for x in logits), target.float())
    assert single.dtype == torch.float32
    assert math.isclose(single.item(), expected, rel_tol=1e-5)


def test_hybrid_loss_survives_certainty_and_emptiness():
    logits = tuple(torch.full((1, 1, 16, 16), s, requires_grad=True) for s in (200.0, -200.0))
    loss = hybrid_loss(logits, torch.zeros(1, 1, 16, 16))
    loss.backward()
    assert torch.isfinite(loss)
    assert all(torch.isfinite(x.grad).all() for x in logits)


def test_hybrid_loss_is_float32_under_autocast():
    logits, target = sample()
    with torch.autocast("cpu", torch.bfloat16):
        half = hybrid_loss(tuple(x.bfloat16() for x in logits), target.float())
    assert half.dtype == torch.float32
    assert math.isclose(half.item(), hybrid_loss(tuple(logits), target).item(), rel_tol=1e-2)
