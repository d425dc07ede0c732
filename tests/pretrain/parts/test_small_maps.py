"""Convolutions of small maps, against PyTorch's."""

import copy
import itertools
import re

import pytest
import torch
from torch import nn
from torchvision import models

from pretrain.parts.backbones import build_backbone
from pretrain.parts.small_maps import CroppedConv2d, crop_kernels


def trained(network, x):
    """The result for x, and all gradients, the image's first."""
    x = x.clone().requires_grad_()
    y = network(x)
    (y * torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view_as(y)).sum().backward()
    return [y, x.grad, *(p.grad for p in network.parameters())]


KERNELS = [  # kernel, stride, padding
    *((3, 1, 1), (3, 2, 1), (1, 1, 0), (1, 2, 0), (7, 2, 3), (5, 1, 2), (3, 1, 0), (2, 1, 1)),
    *((3, 3, 2), ((3, 1), (2, 1), (1, 0))),
]


@pytest.mark.parametrize("size", [(1, 1), (1, 2), (2, 1), (2, 2), (3, 3), (1, 3), (5, 4)])
def test_a_cropped_convolution_is_a_convolution(size):
    for kernel, bias in itertools.product(KERNELS, (False, True)):
        plain = nn.Conv2d(3, 4, *kernel, bias=bias).double()
        cropped = copy.deepcopy(plain)
        crop_kernels(cropped)
        assert type(cropped) is CroppedConv2d and type(plain) is nn.Conv2d
        x = torch.randn(2, 3, *size, dtype=torch.float64)
        try:
            expected = trained(plain, x)
        except RuntimeError as error:  # the kernel is larger than the image
            with pytest.raises(RuntimeError, match=re.escape(str(error))):
                cropped(x)
            continue
        for ours, theirs in zip(trained(cropped, x), expected, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("arch", ["resnet18", "resnet50"])
def test_a_resnet_at_32_pixels_is_torchvisions(arch):
    theirs = getattr(models, arch)(weights=None).double()
    theirs.fc = nn.Identity()
    ours = build_backbone(arch).double()
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(4, 3, 32, 32, dtype=torch.float64)
    for a, b in zip(trained(ours, x), trained(theirs, x), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize(
    "kind", [{"groups": 4}, {"dilation": 2}, {"padding_mode": "circular"}, {"padding": "same"}]
)
def test_others_are_left_alone(kind):
    convolution = nn.Conv2d(4, 4, 3, **({"padding": 1} | kind))
    crop_kernels(convolution)
    assert type(convolution) is nn.Conv2d


def test_the_taps_that_see_padding_cost_nothing(monkeypatch):
    convolution = nn.Conv2d(3, 4, 3, padding=1)
    crop_kernels(convolution)
    monkeypatch.setattr(nn.functional, "conv2d", None)
    assert convolution(torch.randn(2, 3, 1, 1)).shape == (2, 4, 1, 1)
