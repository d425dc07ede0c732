"""The online kNN: the right images, the right labels, and nothing changed."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from data.errors import UserError
from data.images.listing import list_images
from pretrain.online_knn import build_online_knn
from pretrain.settings import build_settings

COLOURS = {"blue": (20, 40, 220), "green": (30, 200, 40), "red": (210, 30, 20)}


def colours(root, names, count):
    """A folder a colour, with images of about that colour."""
    rng = np.random.default_rng(0)
    for name in names:
        (root / name).mkdir(parents=True)
        for number in range(count):
            pixels = rng.normal(COLOURS[name], 10, (40, 50, 3)).clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(root / name / f"{number}.png")
    return str(root)


class MeanColour(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm2d(3)

    def forward(self, x):
        assert not self.training
        return self.norm(x).mean((2, 3))


def knn_of(images, **settings):
    settings = build_settings({"images": images, "image_size": 16, "knn_k": 3}, settings)
    return build_online_knn(settings, list_images(images), workers=0)


@pytest.fixture
def images(tmp_path):
    return colours(tmp_path / "train", COLOURS, 10)


def test_colours_tell_colours_apart(images):
    backbone = MeanColour().train()
    knn = knn_of(images)
    assert (len(knn.train.keys), len(knn.test.keys)) == (27, 3)
    assert set(knn.train.keys).isdisjoint(knn.test.keys)
    assert knn(backbone, torch.device("cpu")) == 1.0
    assert backbone.training


def test_queries_of_another_folder_with_fewer_classes(images, tmp_path):
    other = colours(tmp_path / "val", ["red", "green"], 4)
    knn = knn_of(images, knn_images=other)
    assert (len(knn.train.keys), len(knn.test.keys)) == (30, 8)
    assert knn(MeanColour(), torch.device("cpu")) == 1.0


def test_a_network_that_sees_nothing_guesses(images):
    class Blind(nn.Module):
        def forward(self, x):
            generator = torch.Generator().manual_seed(0)
            return torch.randn(len(x), 4, generator=generator)

    assert knn_of(images, knn_limit=20)(Blind(), torch.device("cpu")) < 1


def test_limits_and_neighbours(images):
    knn = knn_of(images, knn_limit=5, knn_k=200)
    assert (len(knn.train.keys), len(knn.test.keys), knn.k) == (5, 3, 5)
    assert "5" in knn.describe()


def test_images_that_cannot_be_read_are_left_out(images):
    for path in list(Path(images).glob("*/*.png"))[::5]:
        path.write_bytes(b"")
    knn = knn_of(images, knn_k=200)  # all that are there, and then fewer
    assert knn.k == len(knn.train.keys)
    assert 0 <= knn(MeanColour(), torch.device("cpu")) <= 1


def test_absent_without_labels_or_wish(images, tmp_path):
    assert knn_of(images, knn_every=0) is None
    flat = tmp_path / "flat"
    colours(flat, ["red"], 25)
    assert knn_of(str(flat)) is None


def test_other_classes_are_refused(images, tmp_path):
    for name in ("cat", "dog"):
        (tmp_path / "val" / name).mkdir(parents=True)
        Image.new("RGB", (20, 20)).save(tmp_path / "val" / name / "a.png")
    with pytest.raises(UserError, match="class folders"):
        knn_of(images, knn_images=str(tmp_path / "val"))
