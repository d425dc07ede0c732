"""The gradient of linear networks, whose answer is known, and its segmentation."""

import numpy as np
import torch
from torch import nn

from saliency.classifier import preprocess
from saliency.methods.gradient import class_gradient, segment


class Weighted(nn.Module):
    """Scores that are weighted sums of the input: the gradient is the weights."""

    def __init__(self, weights):
        super().__init__()
        self.fc = nn.Linear(weights[0].numel(), len(weights), bias=False)
        self.fc.weight.data.copy_(weights.flatten(1))

    def forward(self, x):
        return self.fc(x.flatten(1))


def test_gradient_of_a_linear_network_is_its_largest_weight():
    weights = torch.randn(4, 3, 6, 5)
    network = Weighted(weights)
    x = torch.randn(2, 3, 6, 5)
    gradient, classes = class_gradient(network, x, torch.tensor([2, 0]))
    std = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    expected = torch.stack([(weights[c] / std).abs().amax(0) for c in (2, 0)])
    torch.testing.assert_close(gradient, expected)
    assert gradient.dtype == torch.float32 and not gradient.requires_grad
    assert classes.tolist() == [2, 0]


def test_gradient_is_by_the_pixel():
    """Finite differences of the whole way from a pixel in [0, 1] to the score."""
    weights = torch.randn(2, 3, 4, 4, dtype=torch.float64)
    network = Weighted(weights).double()
    image = np.full((4, 4, 3), 100, np.uint8)
    brighter = image.copy()
    brighter[1, 2, 0] += 1
    scores = [
        network(torch.as_tensor(preprocess(i, 4)).double()[None])[0, 1] for i in (image, brighter)
    ]
    by_red = ((scores[1] - scores[0]) * 255).abs().item()
    gradient, _ = class_gradient(
        network, torch.as_tensor(preprocess(image, 4)).double()[None], torch.tensor([1])
    )
    std = np.array([0.229, 0.224, 0.225])
    largest = np.argmax(np.abs(weights[1, :, 1, 2].numpy()) / std)
    if largest == 0:
        np.testing.assert_allclose(gradient[0, 1, 2], by_red, rtol=1e-3)
    else:
        assert gradient[0, 1, 2] >= by_red * (1 - 1e-3)


def test_prediction_is_the_default_class():
    network = Weighted(torch.stack([torch.zeros(3, 2, 2), torch.ones(3, 2, 2)]))
    _, classes = class_gradient(network, torch.tensor([[[[1.0]]], [[[-1.0]]]]).expand(2, 3, 2, 2))
    assert classes.tolist() == [1, 0]


def test_works_within_inference_without_keeping_gradients():
    network = Weighted(torch.ones(1, 3, 2, 2))
    with torch.no_grad():
        class_gradient(network, torch.zeros(1, 3, 2, 2))
    assert network.fc.weight.grad is None


def scene():
    """A red disc on a noisy green ground, and a gradient that is large on a part of the disc."""
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:96, :96]
    disc = (rows - 40) ** 2 + (columns - 55) ** 2 < 24**2
    image = np.where(disc[..., None], [200, 40, 40], [40, 160, 60])
    image = np.clip(image + rng.normal(0, 12, image.shape), 0, 255).astype(np.uint8)
    centre = (rows - 36) ** 2 + (columns - 58) ** 2
    gradient = np.exp(-centre / (2 * 16**2)) * rng.random((96, 96))
    return image, gradient, disc


def test_segmentation_finds_the_object_from_a_noisy_gradient():
    image, gradient, disc = scene()
    found = segment(image, gradient)
    assert found.dtype == bool and found.shape == (96, 96)
    assert (found & disc).sum() / (found | disc).sum() > 0.95


def test_segmentation_is_deterministic():
    image, gradient, _ = scene()
    assert np.array_equal(segment(image, gradient), segment(image, gradient))


def test_flat_gradient_selects_nothing():
    image, _, _ = scene()
    assert not segment(image, np.zeros((96, 96))).any()
    assert not segment(image, np.ones((96, 96))).any()
