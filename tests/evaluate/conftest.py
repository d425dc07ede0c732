"""Made data that several tests of the judge use."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import torchvision
from click.testing import CliRunner, Result
from torch import nn

from data.images.labels import Labelled
from data.keys import Keys
from data.masks.format import ChunkEncoder, ShardWriter, Status, shard_name
from evaluate.checkpoints import Checkpoint, Source
from evaluate.cli import main
from evaluate.models import Backbone, Features, Model
from evaluate.options import NetworkOptions


@pytest.fixture
def probe():
    """Run `probe ARGUMENTS` in this process; a traceback fails the test."""

    def run(*arguments, code: int = 0) -> Result:
        result = CliRunner().invoke(main, [str(argument) for argument in arguments])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        assert result.exit_code == code, result.output
        if code:
            assert "Traceback" not in result.output
        return result

    return run


@pytest.fixture
def write_shard():
    """Write masks {key: uint8 (h, w) or a reason} as a folder of one shard."""

    def write(folder: Path, masks: dict, image_sizes: dict | None = None, canvas: int = 64) -> Path:
        keys = Keys(masks)
        encoder = ChunkEncoder(canvas)
        attributes = {
            "method": "rbd",
            "parameters": {"max_side": canvas},
            "software": {},
            "listing_digest": keys.digest(),
        }
        path = folder / shard_name(0)
        with ShardWriter(path, 0, 1, keys, canvas, "zstd", attributes) as writer:
            for row, key in enumerate(keys):
                mask = masks[key]
                if isinstance(mask, str):
                    writer.write(row, None, status=Status.UNREADABLE, error=mask)
                    continue
                size = (image_sizes or {}).get(key, mask.shape)
                writer.write(row, encoder.encode(mask), mask.shape, size)
            writer.commit()
        return folder

    return write


@pytest.fixture
def write_pictures():
    """Write {name: uint8 array} as PNGs."""

    def write(folder: Path, pictures: dict[str, np.ndarray]) -> Path:
        for name, picture in pictures.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            bgr = picture[..., ::-1] if picture.ndim == 3 else picture
            assert cv2.imwrite(str(path), bgr)
        return folder

    return write


class Colour(nn.Module):
    """A stand-in for a backbone: the mean colour and its products, 6 features."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(6))
        self.norm = nn.BatchNorm1d(6, affine=False)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        mean = images.mean(dim=(2, 3))
        return self.norm(self.scale * torch.cat([mean, mean * mean.roll(1, 1)], dim=1))


@pytest.fixture
def colour_backbone():
    torch.manual_seed(0)
    return Backbone(Checkpoint(Colour(), Source("colour", arch="colour")))


@pytest.fixture
def model_of(colour_backbone):
    """Make a model, as `load_models` does; without a backbone one of colours."""

    def make(
        backbone: Backbone = colour_backbone, size: int = 16, device: str = "cpu", **options
    ) -> Model:
        options = NetworkOptions(**{"batch_size": 64, "workers": 0, **options})
        return Model("model", backbone, size, options, torch.device(device))

    return make


@pytest.fixture
def features_of(model_of):
    """Take the features of labelled images on the CPU."""

    def take(backbone: Backbone, images: Labelled, size: int, **options) -> Features:
        return model_of(backbone, size, **options).features(images, "images")

    return take


@pytest.fixture
def write_labelled(write_pictures):
    """Write `count` noisy pictures of each class below a folder; a class is a colour."""

    def write(folder: Path, count: int, seed: int = 0, size: int = 40, noise: int = 40) -> Path:
        rng = np.random.default_rng(seed)
        colours = {"blue": (40, 60, 200), "green": (60, 180, 50), "red": (210, 50, 40)}
        pictures = {}
        for name, colour in colours.items():
            for number in range(count):
                values = rng.normal(128, noise, (size, size, 3))
                top, left = rng.integers(4, size // 3, 2)
                values[top : top + size // 2, left : left + size // 2] += np.array(colour) - 128.0
                pictures[f"{name}/{number:03d}.png"] = values.clip(0, 255).astype(np.uint8)
        return write_pictures(folder, pictures)

    return write


@pytest.fixture
def split_folder(tmp_path, write_labelled):
    """`images/train` and `images/val` of three classes."""
    write_labelled(tmp_path / "images" / "train", 12)
    write_labelled(tmp_path / "images" / "val", 5, seed=1)
    return tmp_path / "images"


@pytest.fixture
def resnet18_file(tmp_path):
    """A state_dict of torchvision's resnet18 with random weights, as a user would save it."""
    torch.manual_seed(3)
    path = tmp_path / "resnet18.pt"
    torch.save(torchvision.models.resnet18().state_dict(), path)
    return path
