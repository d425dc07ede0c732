"""A method is one class and one line of the registry."""

import json
from typing import Annotated

import pytest
import torch
from click.testing import CliRunner
from pydantic import Field
from torch import nn

from data.options import setting
from pretrain.cli import main
from pretrain.contract import Method, MethodSettings
from pretrain.methods import METHODS
from pretrain.parts.backbones import build_backbone, feature_dim
from tests.pretrain.runs import metrics


class WhereIsTheObject(Method, nn.Module):
    """Predict from an image how much of it is salient, and the object's box."""

    class Settings(MethodSettings):
        box_weight: Annotated[float, Field(ge=0)] = setting(1.0, "weight of the box's error")

    views = 2
    wants = frozenset({"saliency", "boxes"})

    def __init__(self, arch, weight, size):
        super().__init__()
        self.network, self.weight, self.size = build_backbone(arch), weight, size
        self.head = nn.Linear(feature_dim(arch), 5)
        self.updates = 0

    @classmethod
    def build(cls, settings, sizes):
        return cls(settings.arch, settings.method.box_weight, settings.image_size)

    @property
    def backbone(self):
        return self.network

    def forward(self, views, step):
        assert views.alpha is None  # what it does not want is not made
        share = box = 0.0
        for view, (image, saliency) in enumerate(zip(views.images, views.saliency, strict=True)):
            guess = self.head(self.network(image)).float().sigmoid()
            share += (guess[:, 0] - saliency.mean((1, 2, 3))).square().mean()
            box += (guess[:, 1:] - views.boxes[:, view] / self.size).square().mean()
        return share + self.weight * box, {"box": box.detach()}

    def update(self):
        self.updates += 1


@pytest.fixture
def toy(monkeypatch):
    monkeypatch.setitem(METHODS, "toy", f"{__name__}:WhereIsTheObject")


def pretrain(*arguments):
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.mark.parametrize(("pasting", "epochs"), [(0.5, 8), (0.0, 1)])
def test_a_toy_method_is_trained_by_the_public_command(toy, photographs, tmp_path, pasting, epochs):
    out = tmp_path / "run"
    arguments = (
        photographs.images, "--masks", photographs.masks, "--out", out, "--method", "toy",
        "--arch", "resnet18", "--image-size", 32, "--batch-size", 4, "--epochs", epochs,
        "--workers", 0, "--device", "cpu", "--paste-probability", pasting,
        "--set", "box_weight=0.5", "--set", "knn_every=0", "--set", "lr_batch=fixed", "--lr", 0.01,
    )  # fmt: skip
    done = pretrain(*arguments)
    assert done.exit_code == 0, done.output
    assert "toy, resnet18" in done.output
    losses = [line["loss"] for line in metrics(out)]
    assert all("box" in line for line in metrics(out))
    assert sum(losses[-3:]) < sum(losses[:3]) or epochs == 1
    assert '[method]\nname = "toy"\nbox_weight = 0.5' in (out / "config.toml").read_text()
    saved = torch.load(out / "backbone.pt", weights_only=True)
    assert json.loads(saved["config"])["method"]["name"] == "toy"


def test_help_settings_and_checks_know_it(toy, photographs, tmp_path):
    assert "|toy]" in pretrain("--help").output
    assert "method.box_weight = 1.0" in pretrain("--settings").output
    start = (photographs.images, "--out", tmp_path / "run", "--method")
    done = pretrain(*start, "toy", "--set", "box_weight=-1")
    assert done.exit_code == 2 and "box_weight is -1; it should be greater" in done.output
    done = pretrain(*start, "toy", "--set", "temperature=0.2")
    assert done.exit_code == 2 and "is for instdisc; leave it out for toy" in done.output
    done = pretrain(*start, "toi")
    assert done.exit_code == 2 and f"choose one of {', '.join(METHODS)}" in done.output


@pytest.mark.parametrize("pasting", [0.5, 0.0])
def test_what_needs_masks_says_so(toy, photographs, tmp_path, pasting):
    done = pretrain(
        photographs.images, "--out", tmp_path / "run", "--method", "toy", "--arch", "resnet18",
        "--batch-size", 4, "--paste-probability", pasting,
    )  # fmt: skip
    assert done.exit_code == 2 and "looks at the saliency needs masks; give" in done.output


def test_nobody_else_names_a_method():
    """The name of a file of methods, as a word, is in that file and the registry alone."""
    import re
    from pathlib import Path

    root = Path(__file__).resolve().parents[3] / "pretrain"
    modules = {target.partition(":")[0].rpartition(".")[2] for target in METHODS.values()}
    pattern = re.compile(rf"pretrain\.methods\.({'|'.join(modules)})|InstDisc\(|MoCo\(")
    for path in root.rglob("*.py"):
        if path.parent.name != "methods":
            assert not pattern.search(path.read_text("utf-8")), path
