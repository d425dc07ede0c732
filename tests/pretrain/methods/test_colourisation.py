"""Colourisation: Lab, bins and soft code against others' and plain loops, and what is learnt."""

import math

import cv2
import numpy as np
import pytest
import torch
from skimage.color import rgb2lab
from torch.nn import functional

from data.errors import UserError
from data.loading import normalise
from pretrain.build import check_sizes
from pretrain.contract import Views
from pretrain.methods.colourisation import Colourisation, colour_bins, rebalancing, soft_code
from pretrain.parts.backbones import build_backbone
from pretrain.parts.colour import denormalised, lab
from pretrain.parts.pyramid import stage_maps
from pretrain.settings import build_settings


def cube(step: int) -> np.ndarray:
    """Colours all over the cube of sRGB, uint8 (N, 1, 3)."""
    levels = np.arange(0, 256, step, dtype=np.uint8)
    return np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), -1).reshape(-1, 1, 3)


def views_of(pixels: np.ndarray) -> Views:
    """uint8 (B, S, S, 3) as a batch."""
    number = torch.arange(len(pixels))
    images = normalise(torch.from_numpy(pixels))
    return Views([images], number, number, torch.zeros(len(pixels), 1, 4))


def test_lab_is_scikit_images_and_opencvs():
    colours = cube(15)
    rgb = torch.from_numpy(colours[:, 0] / 255.0).float()[..., None, None]
    ours = lab(rgb)[..., 0, 0].numpy()
    np.testing.assert_allclose(ours, rgb2lab(colours)[:, 0], atol=0.01)
    of_8_bits = cv2.cvtColor(colours, cv2.COLOR_RGB2LAB)[:, 0, 0] * (100 / 255)
    # a level is .39 of L, and OpenCV computes 8 bits in whole numbers
    np.testing.assert_allclose(ours[:, 0], of_8_bits, atol=0.5)


def test_lab_has_gradients_everywhere():
    rgb = torch.cat([torch.zeros(1, 3, 2, 2), torch.ones(1, 3, 2, 2), torch.rand(1, 3, 2, 2)])
    rgb.requires_grad_(True)
    lab(rgb).sum().backward()
    assert rgb.grad.isfinite().all()
    grays = torch.linspace(0, 1, 11).view(-1, 1, 1, 1).expand(-1, 3, 2, 2)
    assert lab(grays)[:, 1:].abs().max() < 0.02


def test_bins_are_the_authors():
    bins = colour_bins()
    assert bins.shape == (313, 2) and not (bins % 10).any()
    # of pts_in_hull.npy, as OpenCV's example of colourisation lists it
    assert bins[0].tolist() == [-90, 50] and bins[-1].tolist() == [100, 0]
    per_a = dict(zip(*np.unique(bins[:, 0], return_counts=True), strict=True))
    assert list(per_a) == list(range(-90, 101, 10)) and sum(per_a.values()) == 313
    assert [per_a[a] for a in (-90, -80, 0, 40, 60, 100)] == [5, 8, 18, 20, 20, 10]
    held = {tuple(b) for b in bins.astype(int).tolist()}
    gamut = np.unique(np.round(rgb2lab(cube(5))[:, 0, 1:] / 10).astype(int) * 10, axis=0)
    assert {tuple(c) for c in gamut.tolist()} <= held and len(gamut) > 255


def test_soft_code_is_the_plain_one():
    bins = colour_bins()
    ab = np.random.default_rng(0).uniform(-60, 60, (2, 3, 3, 2)).astype(np.float32)
    index, weight = soft_code(torch.from_numpy(ab), torch.from_numpy(bins))
    assert index.shape == weight.shape == (2, 3, 3, 10)
    for colour, numbers, weights in zip(
        ab.reshape(-1, 2), index.view(-1, 10), weight.view(-1, 10), strict=True
    ):
        distance = np.hypot(*(bins - colour).T)
        nearest = np.argsort(distance)[:10]
        expected = np.exp(-(distance[nearest] ** 2) / (2 * 5**2))
        np.testing.assert_array_equal(np.sort(numbers), np.sort(nearest))
        np.testing.assert_allclose(weights, expected / expected.sum(), atol=1e-4)


def test_rebalancing_is_equation_4():
    frequency = torch.tensor([0.7, 0.3, 0.0, 0.0])
    weight = rebalancing(frequency)
    assert (frequency * weight).sum() == pytest.approx(1)
    plain = 1 / (0.5 * frequency + 0.5 / 4)
    torch.testing.assert_close(weight / weight[0], plain / plain[0])
    assert weight[2] == weight[3] > weight[1] > weight[0]


def test_loss_is_the_plain_one_and_gray_images_count_as_nothing():
    pixels = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    pixels[1] = pixels[1, ..., :1]  # gray
    method = Colourisation("resnet18-l").eval()
    method.seen += torch.rand(313)
    views = views_of(pixels)
    loss, logged = method(views, 0)

    logits = functional.interpolate(method.network(views.images[0]), (8, 8), mode="bilinear")
    bins, total, plain = method.bins.numpy(), 0.0, 0.0
    weights = rebalancing(method.seen / method.seen.sum())
    for row in (0, 2):
        ab = rgb2lab(pixels[row])[..., 1:].reshape(8, 4, 8, 4, 2).mean((1, 3))
        for y, x in np.ndindex(8, 8):
            distance = ((bins - ab[y, x]) ** 2).sum(1)
            nearest = np.argsort(distance)[:10]
            target = np.exp(-distance[nearest] / 50)
            log_p = logits[row, :, y, x].log_softmax(0).detach().numpy()[nearest]
            entropy = -(target / target.sum() * log_p).sum()
            plain += entropy
            total += weights[nearest[0]].item() * entropy
    assert loss.item() == pytest.approx(total / (3 * 64), rel=1e-3)
    assert logged["unweighted"].item() == pytest.approx(plain / (3 * 64), rel=1e-3)
    assert logged["gray"].item() == pytest.approx(1 / 3)
    before = method.seen.sum()
    method.update()
    assert (method.seen.sum() - before).item() == pytest.approx(2 / 3, abs=1e-4)


def test_the_network_sees_no_colour_and_keeps_layer4_at_stride_1():
    torch.manual_seed(0)
    for arch, width in (("resnet18-l", 512), ("resnet50-l", 2048)):
        network = build_backbone(arch).eval()
        images = normalise(torch.randint(0, 256, (2, 64, 64, 3), dtype=torch.uint8))
        assert stage_maps(network, images)["3"].shape == (2, width, 4, 4)
        torch.testing.assert_close(stage_maps(network, images)["3"].mean((2, 3)), network(images))
        assert network.state_dict()["conv1.weight"].shape == (64, 1, 7, 7)
    rgb = denormalised(images)
    seen = functional.conv2d(lab(rgb)[:, :1] - 50, network.conv1.weight, stride=2, padding=3)
    torch.testing.assert_close(network.conv1(images), seen)


def test_two_colours_are_learnt_from_brightness():
    """Bright images are red and dark ones blue."""
    torch.manual_seed(0)
    pixels = np.empty((8, 32, 32, 3), np.uint8)
    pixels[:4], pixels[4:] = (255, 120, 110), (20, 20, 90)
    views, method = views_of(pixels), Colourisation("resnet18-l").train()
    optimizer = torch.optim.SGD(method.parameters(), lr=0.02, momentum=0.9)
    losses = []
    for step in range(25):
        loss, logged = method(views, step)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        method.update()
        losses.append(logged["unweighted"].item())
    assert losses[0] == pytest.approx(math.log(313), rel=0.15)
    ab = torch.from_numpy(rgb2lab(pixels[:, 0, 0])[:, 1:]).float()
    _, target = soft_code(ab, method.bins)
    least = -(target * target.log()).sum(1).mean().item()  # the code's own entropy
    assert losses[-1] < least + 0.7


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"arch": "resnet50"}, "does not see the colours; give resnet50-l or resnet18-l"),
        ({"gray": 1.0}, "gray is 1, and colourisation learns colours"),
        ({"batch_size": 1, "image_size": 8}, "one value a channel has no statistics"),
        ({"method": "rotation", "arch": "alexnet", "image_size": 8}, "too small for alexnet"),
        ({"method": "rotation", "arch": "resnet18-l", "gray": 1.0}, None),
    ],
)
def test_settings_that_do_not_fit(changes, sentence):
    settings = build_settings({"method": "colourisation", "batch_size": 4} | changes)
    if sentence is None:
        assert check_sizes(settings, 12, 1).group == 4
        return
    with pytest.raises(UserError, match=sentence):
        check_sizes(settings, 12, 1)
