"""MoCo by hand: loss, queue, momentum, shuffle."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from pretrain.contract import Views
from pretrain.methods.moco import MoCo, MoCoSettings
from pretrain.parts.batch_norm import group_batch_norm


class Small(nn.Module):
    def __init__(self, batch_norm=False):
        super().__init__()
        self.norm = nn.BatchNorm2d(3) if batch_norm else nn.Identity()
        self.head = nn.Linear(3, 2)

    def forward(self, x):
        return nn.functional.normalize(self.head(self.norm(x).mean((2, 3))), dim=1)


def build(batch_norm=False, seed=0, **options):
    torch.manual_seed(0)
    settings = MoCoSettings(**{"dim": 2, "negatives": 6} | options)
    return MoCo(Small(batch_norm), settings, seed)


def views(batch=2):
    images = [torch.randn(batch, 3, 4, 4), torch.randn(batch, 3, 4, 4)]
    return Views(images, torch.arange(batch), torch.arange(batch), torch.zeros(batch, 2, 4))


def update(method, keys):
    """Do what follows a step with these keys."""
    method._keys.append(keys)
    method.update()


def test_loss_against_the_equation():
    method = build(temperature=0.2)
    x = views()
    loss, _ = method(x, 0)
    k = method._keys[-1]
    q = method.encoder_q(x.images[0]).detach().double()
    torch.testing.assert_close(k, method.encoder_k(x.images[1]))
    expected = 0.0
    for i in range(2):
        scores = (
            torch.stack([q[i] @ k[i].double(), *(q[i] @ n.double() for n in method.queue.T)]) / 0.2
        )
        expected += (torch.logsumexp(scores, 0) - scores[0]) / 2
    torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=1e-6)
    loss.backward()
    assert all(p.grad is not None for p in method.encoder_q.parameters())
    assert all(p.grad is None and not p.requires_grad for p in method.encoder_k.parameters())


def test_queue_goes_round():
    method = build()
    assert torch.allclose(method.queue.norm(dim=0), torch.ones(6))
    first = method.queue.clone()
    keys = [torch.full((2, 2), float(n)) for n in range(4)]
    update(method, keys[0])
    assert torch.equal(method.queue[:, :2], keys[0].T)
    assert torch.equal(method.queue[:, 2:], first[:, 2:])
    update(method, keys[1])
    update(method, keys[2])
    assert method.queue_ptr == 0
    update(method, keys[3])
    assert torch.equal(method.queue[0], torch.tensor([3.0, 3, 1, 1, 2, 2]))


def test_key_encoder_follows_with_momentum():
    method = build(key_momentum=0.9)
    assert torch.equal(method.encoder_q.head.weight, method.encoder_k.head.weight)
    with torch.no_grad():
        method.encoder_q.head.weight.fill_(1.0)
        method.encoder_k.head.weight.fill_(0.0)
    update(method, torch.zeros(2, 2))
    torch.testing.assert_close(method.encoder_k.head.weight, torch.full((2, 3), 0.1))
    update(method, torch.zeros(2, 2))
    torch.testing.assert_close(method.encoder_k.head.weight, torch.full((2, 3), 0.19))


def test_state_holds_queue_and_place():
    method = build()
    update(method, torch.ones(2, 2))
    other = build(seed=5)
    other.load_state_dict(method.state_dict())
    assert other.queue_ptr == 2
    assert torch.equal(other.queue, method.queue)


def test_shuffle_is_undone():
    method = build()
    x = torch.arange(8.0).view(8, 1)
    shuffled, order = method._shuffle(x, step=3)
    assert sorted(shuffled.flatten().tolist()) == x.flatten().tolist()
    assert not torch.equal(shuffled, x)
    assert torch.equal(method._unshuffle(shuffled, order), x)
    assert torch.equal(method._shuffle(x, step=3)[1], order)
    assert not torch.equal(method._shuffle(x, step=4)[1], order)


def test_keys_are_normalised_in_other_company_than_queries():
    method = build(batch_norm=True)
    group_batch_norm(method, 2)
    x = views(8)
    method(x, 1)
    k = method._keys[-1]
    _, order = method._shuffle(x.images[1], 1)
    expected = torch.empty(8, 2)
    plain = build(batch_norm=True)
    for rows in order.chunk(2):
        expected[rows] = plain.encoder_k(x.images[1][rows]).detach()
    torch.testing.assert_close(k, expected)


@pytest.mark.parametrize("step", [0, 5])
def test_without_batch_norm_the_shuffle_changes_nothing(step):
    method = build()
    x = views(8)
    method(x, step)
    k = method._keys[-1]
    torch.testing.assert_close(k, method.encoder_k(x.images[1]))


def test_another_object_on_the_same_background_is_one_more_negative():
    method = build(temperature=0.2, background_negative=True)
    x = replace(views(), negative=torch.randn(2, 3, 4, 4))
    loss, logged = method(x, 0)
    q = method.encoder_q(x.images[0]).detach().double()
    k, own = (method.encoder_k(image).double() for image in (x.images[1], x.negative))
    scores = torch.cat([(q * k).sum(1, True), (q * own).sum(1, True), q @ method.queue.double()], 1)
    expected = (torch.logsumexp(scores / 0.2, 1) - scores[:, 0] / 0.2).mean()
    torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=1e-6)
    assert logged["object_over_background"] == (scores[:, 0] > scores[:, 1]).float().mean()
    method.update()
    torch.testing.assert_close(method.queue[:, :2].T.double(), k)  # and it is not enqueued
    assert "negative" in MoCo.wanted(MoCoSettings(background_negative=True))
    assert "negative" not in MoCo.wanted(MoCoSettings())
