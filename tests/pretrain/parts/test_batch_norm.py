"""Batch norm in groups equals batch norm of each group alone."""

import copy

import pytest
import torch
from torch import nn

from pretrain.parts.batch_norm import group_batch_norm


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 3))


def head():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 4))


@pytest.mark.parametrize("make, shape", [(network, (12, 3, 9, 9)), (head, (12, 3))])
def test_training_equals_each_group_alone(make, shape):
    plain = make()
    grouped = group_batch_norm(copy.deepcopy(plain), 3)
    x = torch.randn(shape)
    alone = [copy.deepcopy(plain) for _ in range(3)]
    expected = torch.cat([net(part) for net, part in zip(alone, x.chunk(3), strict=True)])
    found = grouped(x)
    torch.testing.assert_close(found, expected)
    for name in ("running_mean", "running_var"):
        means = torch.stack([getattr(net[1], name) for net in alone]).mean(0)
        torch.testing.assert_close(getattr(grouped[1], name), means)
    assert grouped[1].num_batches_tracked == 1
    assert not torch.allclose(found, plain(x))

    expected.square().mean().backward()
    found.square().mean().backward()
    for number, layer in enumerate(grouped):
        for name, parameter in layer.named_parameters():
            total = sum(getattr(net[number], name).grad for net in alone)
            torch.testing.assert_close(parameter.grad, total)


def test_eval_and_names_are_plain_batch_norms():
    plain = network().eval()
    grouped = group_batch_norm(copy.deepcopy(plain), 4)
    x = torch.randn(6, 3, 9, 9)
    assert torch.equal(grouped(x), plain(x))
    assert list(grouped.state_dict()) == list(plain.state_dict())
