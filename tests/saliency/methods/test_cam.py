"""Class activation maps of networks whose answer is known."""

import numpy as np
import pytest
import torch
import torchvision
from torch import nn

from data.errors import UserError
from saliency.methods.cam import ClassActivation


class Colours(nn.Module):
    """Class c scores the mean of colour channel c: its map is that channel itself."""

    def __init__(self):
        super().__init__()
        self.features = nn.Conv2d(3, 3, 1, bias=False)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(3, 3)
        with torch.no_grad():
            self.features.weight.copy_(torch.eye(3)[:, :, None, None])
            self.fc.weight.copy_(torch.eye(3))
            self.fc.bias.copy_(torch.tensor([0.0, 0.0, 9.0]))

    def forward(self, x):
        return self.fc(self.pool(self.features(x)).flatten(1))


def test_known_network_maps_each_class_where_it_is():
    x = torch.zeros(2, 3, 8, 8)
    x[0, 0, :4] = 1.0  # red above
    x[0, 1, 4:] = 1.0  # green below
    x[1, 2, :, 6:] = 0.5
    maps, classes = ClassActivation(Colours())(x, torch.tensor([1, 2]))
    assert torch.equal(maps, torch.stack([x[0, 1], x[1, 2]]))
    assert classes.tolist() == [1, 2]


def test_prediction_chooses_the_class_with_its_bias():
    x = torch.zeros(1, 3, 4, 4)
    x[:, 0] = 1.0
    maps, classes = ClassActivation(Colours())(x)
    assert classes.tolist() == [2] and not maps.any()


@pytest.mark.parametrize("arch", ["resnet18", "densenet121", "mobilenet_v2", "shufflenet_v2_x0_5"])
def test_mean_of_the_map_and_bias_make_the_score(arch):
    torch.manual_seed(0)
    network = torchvision.models.get_model(arch, num_classes=5).eval()
    x = torch.randn(2, 3, 96, 64)
    maps, _ = ClassActivation(network)(x, torch.tensor([3, 1]))
    scores = network(x).detach()
    _, head = list(network.named_modules())[-1]
    assert maps.shape == (2, 3, 2)
    expected = scores[[0, 1], [3, 1]] - head.bias[[3, 1]].detach()
    np.testing.assert_allclose(maps.mean(dim=(1, 2)), expected, atol=1e-5)


def test_maps_are_summed_in_float32_under_autocast():
    """A channel's maps may be exact in bfloat16 where their sum is not."""
    network = Colours()
    with torch.no_grad():
        network.fc.weight.copy_(torch.tensor([[256.0, 1.0, 0.0]] * 3))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        maps, _ = ClassActivation(network)(torch.ones(1, 3, 4, 4), torch.tensor([0]))
    assert maps.dtype == torch.float32 and (maps == 257).all()


@pytest.mark.parametrize("arch", ["squeezenet1_1", "mobilenet_v3_small"])
def test_network_without_pooling_before_the_head_is_refused(arch):
    network = torchvision.models.get_model(arch, num_classes=5).eval()
    with pytest.raises(UserError, match=r"linear"):
        ClassActivation(network)(torch.randn(1, 3, 64, 64))


def test_hooks_are_gone_afterwards():
    network = Colours()
    ClassActivation(network)(torch.zeros(1, 3, 4, 4))
    assert not any(m._forward_hooks for m in network.modules())


def test_layer_is_found_once_and_in_spite_of_an_image_that_is_not_finite():
    mapping = ClassActivation(Colours())
    x = torch.rand(2, 3, 8, 8)
    x[0, 0, 0, 0] = float("inf")
    maps, _ = mapping(x, torch.tensor([1, 1]))
    assert torch.equal(maps[1], x[1, 1])
    x[1] = float("nan")  # nothing to compare any more
    x[0] = 0.5
    maps, _ = mapping(x, torch.tensor([2, 2]))
    assert torch.equal(maps[0], x[0, 2])


def test_weights_that_are_not_finite_are_told():
    with pytest.raises(UserError, match="not finite"):
        ClassActivation(Colours())(torch.full((2, 3, 4, 4), float("nan")))
