"""Rotation: exact turns, labels that fit them, and a task that can be learnt."""

import math

import numpy as np
import torch
from click.testing import CliRunner
from torch.nn import functional

from pretrain.cli import main
from pretrain.contract import Views
from pretrain.methods.rotation import Rotation, rotations
from pretrain.settings import build_settings
from tests.pretrain.runs import metrics


def test_turns_are_numpys_and_move_pixels_only():
    images = torch.rand(3, 3, 6, 6)
    turned = rotations(images).view(3, 4, 3, 6, 6)
    for image, four in zip(images.numpy(), turned.numpy(), strict=True):
        for quarter in range(4):
            assert np.array_equal(four[quarter], np.rot90(image, quarter, (1, 2)))


def test_loss_is_the_cross_entropy_of_each_turn():
    torch.manual_seed(0)
    method = Rotation("resnet18").eval()  # running statistics: no image depends on another
    images = torch.randn(2, 3, 32, 32)
    one = torch.zeros(2, dtype=torch.long)
    loss, logged = method(Views([images], one, one, torch.zeros(2, 1, 4)), 0)
    each = [
        functional.cross_entropy(
            method.head(method.network(torch.rot90(images, quarter, (2, 3)))),
            torch.full((2,), quarter),
        )
        for quarter in range(4)
    ]
    torch.testing.assert_close(loss, torch.stack(each).mean())
    assert 0 <= logged["accuracy"] <= 1
    assert Rotation.chance_loss(None, 0) == math.log(4)


def test_the_command_alone_trains_it(photographs, tmp_path):
    """Photographs and no masks: what the method needs of the run's settings are its defaults."""
    out = tmp_path / "run"
    arguments = (
        photographs.images, "--out", out, "--method", "rotation", "--arch", "resnet18",
        "--image-size", 32, "--batch-size", 12, "--epochs", 10, "--workers", 0, "--device", "cpu",
        "--lr", 0.02, "--set", "lr_batch=fixed", "--set", "crop=center", "--set", "knn_every=0",
    )  # fmt: skip
    done = CliRunner().invoke(main, list(map(str, arguments)))
    assert done.exit_code == 0, done.output
    assert "A loss of 1.39 is that of a network that knows nothing" in done.output
    text = (out / "config.toml").read_text()
    assert 'recipe = "plain"' in text and "paste_probability = 0.0" in text
    assert sum(line["accuracy"] for line in metrics(out)[-3:]) / 3 > 0.4  # chance is .25


def test_defaults_of_a_method_give_way():
    settings = build_settings({"method": "rotation"}, {"recipe": "moco-v2", "jitter": 0.5})
    assert (settings.blur, settings.jitter, settings.scale) == (0.5, 0.5, (0.2, 1.0))
    assert build_settings({"method": "rotation"}).scale == (0.08, 1.0)
