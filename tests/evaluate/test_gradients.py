"""Gradient shares on networks whose answer is known, and `probe gradients`."""

import json

import cv2
import numpy as np
import pytest
import torch
from torch import nn

from data.loading import IMAGENET_MEAN, IMAGENET_STD
from evaluate.checkpoints import load_checkpoint
from evaluate.gradient_maps import (
    as_picture,
    energy,
    magnitude,
    pixel_gradients,
    points_inside,
    share_inside,
)
from evaluate.models import Backbone

SIDE = 12


class LinearNetwork(nn.Module):
    """features[d] = sum of field[d] * pixel, the pixel in [0, 1]: its gradient is the field."""

    def __init__(self, fields):  # (D, 3, S, S)
        super().__init__()
        self.fields = fields

    def forward(self, inputs):
        mean, std = (torch.tensor(v)[:, None, None] for v in (IMAGENET_MEAN, IMAGENET_STD))
        return torch.einsum("dchw,bchw->bd", self.fields, inputs * std + mean)


@pytest.fixture
def fields():
    return torch.randn(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))


def test_gradient_of_a_linear_network_is_its_field(fields):
    images = torch.randint(0, 256, (3, SIDE, SIDE, 3), dtype=torch.uint8)
    weight = torch.tensor([[1.0, 0.0], [2.0, -1.0]])
    labels = torch.tensor([0, 1, 1])
    gradient, features = pixel_gradients(LinearNetwork(fields), weight, images, labels)
    second = 2 * fields[0] - fields[1]
    torch.testing.assert_close(gradient, torch.stack([fields[0], second, second]))
    torch.testing.assert_close(
        features[0, 0], (fields[0] * images[0].permute(2, 0, 1) / 255).sum(), atol=1e-3, rtol=1e-3
    )


def test_share_is_the_fields_share(fields):
    """A network that reads the left third with weight 3 and the rest with weight 1."""
    field = torch.ones(1, 3, SIDE, SIDE)
    field[..., : SIDE // 3] = 3
    images = torch.zeros(1, SIDE, SIDE, 3, dtype=torch.uint8)
    gradient, _ = pixel_gradients(LinearNetwork(field), torch.ones(1, 1), images, torch.tensor([0]))
    left = np.zeros((SIDE, SIDE), bool)
    left[:, : SIDE // 3] = True
    share = share_inside(energy(gradient)[0].numpy(), left)
    assert share == pytest.approx(9 / (9 + 2))  # energy 9 on one third, 1 on two thirds
    assert points_inside(magnitude(gradient)[0].numpy(), left)
    assert not points_inside(magnitude(gradient)[0].numpy(), ~left)


def test_even_gradient_has_the_areas_share():
    mask = np.zeros((10, 10), bool)
    mask[2:5, 3:9] = True
    assert share_inside(np.ones((10, 10), np.float32), mask) == pytest.approx(mask.mean())


def test_no_gradient_is_nan():
    assert np.isnan(share_inside(np.zeros((4, 4)), np.ones((4, 4), bool)))


def test_magnitude_and_energy():
    gradient = torch.tensor([1.0, -3.0, 2.0]).reshape(1, 3, 1, 1)
    assert magnitude(gradient).item() == 3
    assert energy(gradient).item() == 14


def test_relu_network_against_finite_differences():
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.Softplus(), nn.AdaptiveAvgPool2d(2), nn.Flatten()
    ).double()
    images = torch.full((1, 8, 8, 3), 100, dtype=torch.uint8)
    weight = torch.randn(2, 16).double()

    def score(change):
        mean, std = (torch.tensor(v)[:, None, None] for v in (IMAGENET_MEAN, IMAGENET_STD))
        pixels = torch.full((1, 3, 8, 8), 100 / 255) + change
        return (network(((pixels - mean) / std).double()) @ weight[1]).item()

    gradient, _ = pixel_gradients(
        lambda inputs: network(inputs.double()), weight, images, torch.tensor([1])
    )
    for place in [(0, 3, 3), (2, 5, 1)]:
        step = torch.zeros(1, 3, 8, 8)
        step[0][place] = 1e-3
        numeric = (score(step) - score(-step)) / 2e-3
        assert gradient[0][place].item() == pytest.approx(numeric, rel=2e-2, abs=1e-6)


def test_picture_is_scaled_by_its_strong_pixels():
    values = np.zeros((20, 20), np.float32)
    values[3, 4], values[5:9, 5:9] = 1000, 1
    picture = as_picture(values)
    assert picture.shape == (20, 20, 3) and picture.dtype == np.uint8
    assert picture[6, 6].sum() > picture[0, 0].sum()
    assert as_picture(np.zeros((4, 4))).shape == (4, 4, 3)


ARGUMENTS = ("--image-size", 32, "--workers", 0, "--device", "cpu", "--batch-size", 16)


@pytest.fixture
def with_masks(tmp_path, split_folder, write_pictures):
    masks = {}
    for path in sorted((split_folder / "val").glob("*/*.png")):
        mask = np.zeros((40, 40), np.uint8)
        mask[8:32, 8:32] = 255
        masks[f"val/{path.parent.name}/{path.name}"] = mask
    masks["val/red/000.png"][:] = 0
    return write_pictures(tmp_path / "masks", masks)


def test_command(tmp_path, probe, split_folder, with_masks, resnet18_file):
    out, truncated = tmp_path / "out", split_folder / "val" / "red" / "002.png"
    truncated.write_bytes(truncated.read_bytes()[: truncated.stat().st_size // 2])  # with a size
    result = probe(
        "gradients", f"one={resnet18_file}", "random:resnet18", split_folder, *ARGUMENTS,
        "--masks", with_masks, "--ground-truth", with_masks / "val", "--out", out,
    )  # fmt: skip
    report = json.loads((out / "results.json").read_text())
    assert "cannot be read: red/002.png" in result.stderr
    assert report["test_images"] == 14 and report["unreadable"].keys() == {"red/002.png"}
    assert report["masks"] == str(with_masks)
    first, second = report["models"]
    assert first["label"] == "one" and second["arch"] == "resnet18"
    assert first["masks"]["images"] == 13  # one mask is empty
    assert "empty mask" in report["left_out"]["masks"]["red/000.png"]
    assert len(first["masks"]["shares"]) == 13
    mean = np.mean(list(first["masks"]["shares"].values()))
    assert first["masks"]["share_inside"] == pytest.approx(mean)
    low, high = first["masks"]["share_inside_interval"]
    assert low < mean < high
    assert first["ground_truth"]["share_inside"] == first["masks"]["share_inside"]
    assert "looks at" not in result.stdout and f"{100 * mean:.1f} [" in result.stdout
    for name in ("gradients.png", "shares.png"):
        assert cv2.imread(str(out / name)).size
    page = (out / "index.html").read_text()
    assert page.count("<figure") == 14 * (3 + 2 * 4)  # a map and three neighbours of each
    assert "http" not in page and "<script" not in page  # self-contained
    # the first row is where the models differ most
    gaps = {
        key: abs(share - second["masks"]["shares"][key])
        for key, share in first["masks"]["shares"].items()
    }
    widest = max(gaps, key=gaps.get)
    assert page.index(widest) == min(page.index(key) for key in gaps)


def test_command_without_masks(tmp_path, probe, split_folder, resnet18_file):
    out = tmp_path / "out"
    result = probe(
        "gradients", resnet18_file, split_folder, *ARGUMENTS, "--out", out, "--limit", 6,
        "--pages", 3, "--neighbors", 2,
    )  # fmt: skip
    assert "top-1 %" in result.stdout and "inside" not in result.stdout
    assert not (out / "shares.png").exists()
    page = (out / "index.html").read_text()
    assert page.count("<figure") == 3 * (1 + 2 * 3)
    assert all(
        name in page for name in ("blue", "green", "red")
    )  # in even steps, so of every class


def test_no_usable_mask_is_one_sentence(
    tmp_path, probe, split_folder, write_pictures, resnet18_file
):
    masks = write_pictures(tmp_path / "m", {"red/000.png": np.zeros((40, 40), np.uint8)})
    result = probe(
        "gradients", resnet18_file, split_folder, *ARGUMENTS, "--masks", masks,
        "--out", tmp_path / "out", code=2,
    )  # fmt: skip
    assert "no image has a usable mask" in result.stderr
    assert not (tmp_path / "out").exists()


def test_network_without_gradient_is_one_sentence(
    tmp_path, probe, split_folder, with_masks, resnet18_file
):
    state = torch.load(resnet18_file, weights_only=True)
    torch.save({key: torch.zeros_like(value) for key, value in state.items()}, tmp_path / "0.pt")
    result = probe(
        "gradients", tmp_path / "0.pt", split_folder, *ARGUMENTS, "--masks", with_masks,
        "--out", tmp_path / "out", code=2,
    )  # fmt: skip
    assert "no image's score has a gradient" in result.stderr
    assert not (tmp_path / "out").exists()


def test_a_network_of_lightness_stands_beside_one_of_colours(tmp_path, probe, split_folder):
    """Its gradients by the pixels go through L: at gray pixels they are gray's, by luminance."""
    arguments = ("light=random:resnet18-l", "colour=random:resnet18", split_folder)
    arguments += ("--image-size", 32, "--workers", 0, "--device", "cpu", "--batch-size", 16)
    for name, more in (("gradients", ("--limit", 3)), ("neighbors", ("--neighbors", 2))):
        probe(name, *arguments, *more, "--out", tmp_path / name)
        assert (tmp_path / name / f"{name}.png").is_file()
    backbone = Backbone(load_checkpoint("random:resnet18-l"))
    gray = torch.randint(30, 220, (2, 32, 32, 1), dtype=torch.uint8).expand(-1, -1, -1, 3)
    gradient, _ = pixel_gradients(backbone, torch.randn(3, 512), gray, torch.tensor([0, 2]))
    luminance = torch.tensor([0.212671, 0.715160, 0.072169])[:, None, None]
    torch.testing.assert_close(gradient, gradient.sum(1, keepdim=True) * luminance)
    assert gradient.abs().sum() > 0
