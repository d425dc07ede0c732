"""The networks, against torchvision's and against the published sizes."""

import pytest
import torch
from torchvision import models

from pretrain.parts.backbones import (
    ARCHITECTURES,
    CLASSIFIER,
    AlexNetBN,
    ResNet50w2,
    build_backbone,
    feature_dim,
)

TORCHVISION = {"vgg16": "vgg16_bn", "resnet18": "resnet18", "resnet50": "resnet50"}


def parameters(network):
    return sum(p.numel() for p in network.parameters())


@pytest.mark.parametrize("arch", ARCHITECTURES)
@pytest.mark.parametrize("size", [64, 96])
def test_features(arch, size):
    network = build_backbone(arch).eval()
    with torch.no_grad():
        assert network(torch.randn(2, 3, size, size)).shape == (2, feature_dim(arch))


@pytest.mark.parametrize("arch", TORCHVISION)
def test_loads_into_torchvision_but_for_the_classifier(arch):
    backbone = build_backbone(arch)
    theirs = getattr(models, TORCHVISION[arch])(weights=None)
    missing, unexpected = theirs.load_state_dict(backbone.state_dict(), strict=False)
    assert sorted(missing) == [CLASSIFIER[arch] + ".bias", CLASSIFIER[arch] + ".weight"]
    assert unexpected == []
    theirs.eval(), backbone.eval()
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        last = theirs.get_submodule(CLASSIFIER[arch])
        torch.testing.assert_close(last(backbone(x)), theirs(x), rtol=0, atol=0)


def test_doubled_width_is_mocos():
    network = ResNet50w2()
    theirs = models.resnet50(weights=None)
    ours, base = network.state_dict(), theirs.state_dict()
    assert list(ours) == list(base)
    for name, tensor in base.items():
        if tensor.dim() == 4:  # convolutions: twice the channels on both sides, but for the image's
            out, into, *kernel = tensor.shape
            doubled = (2 * out, into if name == "conv1.weight" else 2 * into, *kernel)
            assert ours[name].shape == doubled, name
    assert abs(parameters(build_backbone("resnet50w2")) - 94e6) < 1e6  # "R50w2x: 94M"


def test_alexnet_is_torchvisions_with_batch_norm():
    ours = [m for m in AlexNetBN().modules() if isinstance(m, torch.nn.Conv2d | torch.nn.Linear)]
    theirs = [
        m
        for m in models.alexnet(weights=None).modules()
        if isinstance(m, torch.nn.Conv2d | torch.nn.Linear)
    ]
    assert [m.weight.shape for m in ours] == [m.weight.shape for m in theirs[:-1]]
    assert sum(isinstance(m, torch.nn.BatchNorm2d) for m in AlexNetBN().modules()) == 5
