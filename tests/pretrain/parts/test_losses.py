"""The losses against the papers' equations, written plainly in float64."""

import itertools
import math

import numpy as np
import pytest
import torch

from pretrain.parts import losses
from pretrain.parts.negatives import OwnDraws, SharedDraws, WholeMemory

TAU = 0.07


def unit(rng, *shape):
    x = rng.normal(size=shape)
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


@pytest.fixture
def vectors():
    """Features (5, 8), positives (5, 8), own negatives (5, 30, 8), shared ones (30, 8)."""
    rng = np.random.default_rng(0)
    return unit(rng, 5, 8), unit(rng, 5, 8), unit(rng, 5, 30, 8), unit(rng, 30, 8)


def plain_softmax(f, v, negatives):
    """-log softmax of the positive among K + 1, sample by sample."""
    out = []
    for i in range(len(f)):
        own = negatives[i] if negatives.ndim == 3 else negatives
        scores = np.array([f[i] @ v[i], *(own @ f[i])]) / TAU
        out.append(-math.log(math.exp(scores[0]) / sum(math.exp(s) for s in scores)))
    return np.array(out)


def plain_nce(f, v, negatives, z, ratio):
    """-log P+/(P+ + K/N) - sum log (K/N)/(P_k + K/N), sample by sample."""
    out = []
    for i in range(len(f)):
        own = negatives[i] if negatives.ndim == 3 else negatives
        positive = math.exp(f[i] @ v[i] / TAU) / z
        loss = -math.log(positive / (positive + ratio))
        for k in own:
            loss -= math.log(ratio / (math.exp(f[i] @ k / TAU) / z + ratio))
        out.append(loss)
    return np.array(out)


def chunks(negatives, size=7):
    return torch.from_numpy(negatives).split(size, dim=-2)


@pytest.mark.parametrize("own", [True, False])
def test_softmax_nce_equals_the_equation(vectors, own):
    f, v, each, shared = vectors
    negatives = each if own else shared
    found = losses.softmax_nce(torch.from_numpy(f), torch.from_numpy(v), chunks(negatives), TAU)
    np.testing.assert_allclose(found, plain_softmax(f, v, negatives), rtol=1e-12)


@pytest.mark.parametrize("own", [True, False])
def test_nce_equals_the_equation(vectors, own):
    f, v, each, shared = vectors
    negatives = each if own else shared
    z, ratio = 123.0, 30 / 1000
    found = losses.nce(
        torch.from_numpy(f),
        torch.from_numpy(v),
        chunks(negatives),
        TAU,
        torch.tensor(math.log(z), dtype=torch.float64),
        ratio,
    )
    np.testing.assert_allclose(found, plain_nce(f, v, negatives, z, ratio), rtol=1e-12)


def test_normaliser_is_n_times_the_mean(vectors):
    f, v, each, _ = vectors
    found = losses.log_normaliser(torch.from_numpy(f), torch.from_numpy(v), chunks(each), TAU, 1000)
    scores = np.concatenate([(f * v).sum(1)[:, None], np.einsum("bd,bkd->bk", f, each)], 1)
    assert float(found.exp()) == pytest.approx(1000 * np.exp(scores / TAU).mean(), rel=1e-12)


def autograd_softmax(f, v, negatives, index=None):
    """The plain form, all logits at once, differentiated by autograd."""
    if index is not None:  # the whole memory
        return torch.nn.functional.cross_entropy(f @ negatives.T / TAU, index, reduction="none")
    l_pos = (f * v).sum(1, keepdim=True)
    pattern = "bd,bkd->bk" if negatives.dim() == 3 else "bd,kd->bk"
    logits = torch.cat([l_pos, torch.einsum(pattern, f, negatives)], 1) / TAU
    return torch.nn.functional.cross_entropy(
        logits, torch.zeros(len(f), dtype=torch.long), reduction="none"
    )


@pytest.mark.parametrize("mode", ["own", "shared", "all"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_gradient_equals_autograd_of_the_plain_form(mode, dtype):
    generator = torch.Generator().manual_seed(1)
    bank = torch.nn.functional.normalize(torch.randn(500, 16, generator=generator), dim=1).to(dtype)
    f = torch.nn.functional.normalize(torch.randn(6, 16, generator=generator), dim=1).to(dtype)
    index = torch.arange(6) * 3
    negatives, plain = {
        "own": (bank[: 6 * 40].view(6, 40, 16).split(9, 1), bank[: 6 * 40].view(6, 40, 16)),
        "shared": (bank[100:160].split(9), bank[100:160]),
        "all": (bank.split(64), bank),
    }[mode]
    weights = torch.linspace(0.5, 2, 6, dtype=dtype)
    a, b = f.clone().requires_grad_(), f.clone().requires_grad_()
    found = losses.softmax_nce(a, bank[index], negatives, TAU, positive_included=mode == "all")
    expected = autograd_softmax(b, bank[index], plain, index if mode == "all" else None)
    (found * weights).sum().backward()
    (expected * weights).sum().backward()
    tolerance = (
        {"rtol": 1e-11, "atol": 1e-12} if dtype == torch.float64 else {"rtol": 1e-4, "atol": 1e-5}
    )
    torch.testing.assert_close(found, expected, **tolerance)
    torch.testing.assert_close(a.grad, b.grad, **tolerance)


@pytest.mark.parametrize("own", [True, False])
def test_nce_gradient_is_that_of_finite_differences(vectors, own):
    f, v, each, shared = vectors
    parts = chunks(each if own else shared)
    log_z = torch.tensor(5.0, dtype=torch.float64)
    features = torch.from_numpy(f).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda x: losses.nce(x, torch.from_numpy(v), parts, TAU, log_z, 0.03), features
    )


def test_extreme_logits_stay_finite():
    f = torch.tensor([[1.0, 0.0]], requires_grad=True)
    far = torch.tensor([[-50.0, 0.0]])
    near = [torch.tensor([[-60.0, 0.0], [50.0, 0.0]]), torch.tensor([[60.0, 0.0]])]
    loss = losses.softmax_nce(f, far, near, 0.01)
    loss.sum().backward()
    assert loss.item() == pytest.approx(11000)
    assert torch.isfinite(f.grad).all()
    f.grad = None
    loss = losses.nce(f, far, near, 0.01, torch.tensor(0.0), 0.5)
    loss.sum().backward()
    assert torch.isfinite(loss).all() and torch.isfinite(f.grad).all()


def test_shared_and_own_negatives_have_the_same_expected_loss_and_gradient():
    """Exactly, by summing over all N^K draws of a small memory."""
    rng = np.random.default_rng(3)
    n, k = 4, 3
    bank, f = torch.from_numpy(unit(rng, n, 5)), torch.from_numpy(unit(rng, 2, 5))
    v = bank[:2]
    draws = [torch.tensor(d) for d in itertools.product(range(n), repeat=k)]

    def mean(loss_of_a_draw):
        features = f.clone().requires_grad_()
        total = sum(loss_of_a_draw(features, d).mean() for d in draws) / len(draws)
        total.backward()
        return total.detach(), features.grad

    shared = mean(lambda x, d: losses.softmax_nce(x, v, [bank[d]], TAU))
    # Let the second sample draw otherwise than the first, but each draw once too: the mean of the
    # batch's loss is linear in the samples, so what they draw together does not matter.
    paired = {tuple(d.tolist()): draws[-1 - i] for i, d in enumerate(draws)}
    own = mean(
        lambda x, d: losses.softmax_nce(
            x, v, [bank[torch.stack([d, paired[tuple(d.tolist())]])]], TAU
        )
    )
    torch.testing.assert_close(shared[0], own[0], rtol=1e-12, atol=0)
    torch.testing.assert_close(shared[1], own[1], rtol=1e-10, atol=1e-14)


def test_sampled_gradients_tend_to_the_exact_softmax():
    """N/K times a sampled partition sum is unbiased: for large K loss and gradient agree."""
    generator = torch.Generator().manual_seed(5)
    bank = torch.nn.functional.normalize(torch.randn(300, 16, generator=generator), dim=1).double()
    f = torch.nn.functional.normalize(torch.randn(4, 16, generator=generator), dim=1).double()
    index, rows, k = torch.tensor([7, 70, 170, 270]), torch.arange(4), 60_000
    found = {}
    for name, negatives in {
        "all": WholeMemory(bank, 4),
        "shared": SharedDraws(bank, k, 11, 4),
        "own": OwnDraws(bank, k, 12, rows),
    }.items():
        x = f.clone().requires_grad_()
        loss = losses.softmax_nce(x, bank[index], negatives, 0.5, negatives.positive_included)
        loss.mean().backward()
        found[name] = (loss.detach(), x.grad)
    for name in ("shared", "own"):
        shift = math.log(k / 300)  # K draws stand for N vectors
        torch.testing.assert_close(found[name][0] - shift, found["all"][0], rtol=0, atol=0.02)
        torch.testing.assert_close(found[name][1], found["all"][1], rtol=0, atol=0.01)
