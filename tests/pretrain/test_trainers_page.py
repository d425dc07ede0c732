"""The data set for other trainers, and docs/trainers.md's examples as they stand."""

import importlib.util
import re
import shutil
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision.transforms import v2

from data.images.decode import decode
from data.masks import EachView, MaskedImages
from data.masks.picture import scale_mask
from data.masks.read import MaskShards

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "trainers.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)


def test_items_are_images_masks_and_labels(photographs):
    dataset = MaskedImages(photographs.images, photographs.masks)
    assert (len(dataset), dataset.classes) == (12, ["class0", "class1"])
    (image, mask), label = dataset[7]
    key = dataset.keys[7]
    pixels, size = decode(Path(photographs.images) / key)
    assert torch.equal(image, torch.from_numpy(pixels).permute(2, 0, 1))
    expected = scale_mask(MaskShards(photographs.masks).read(key), size)
    assert (mask.numpy() == expected).all() and mask.shape == size
    assert label == int(key.startswith("class1")) == dataset.targets[7]


def test_a_transform_cuts_image_and_mask_alike(photographs):
    dataset = MaskedImages(photographs.images, photographs.masks)
    (image, mask), _ = dataset[0]
    flipped = MaskedImages(
        photographs.images, photographs.masks, EachView(v2.RandomHorizontalFlip(1), v2.Identity())
    )
    (first, its_mask), (second, other) = flipped[0][0]
    assert torch.equal(first, image.flip(-1)) and torch.equal(its_mask, mask.flip(-1))
    assert torch.equal(second, image) and torch.equal(other, mask)


def test_an_image_without_a_mask_has_zeros(photographs, tmp_path):
    from PIL import Image

    root = shutil.copytree(photographs.images, tmp_path / "images")
    Image.fromarray(np.full((9, 8, 3), 50, np.uint8)).save(root / "other.png")
    images = MaskedImages(root, photographs.masks)
    (_, mask), label = images[images.keys.find("other.png")]
    assert mask.shape == (9, 8) and not mask.any() and label == 0


def without_its_init(monkeypatch, package: str, *folders: str) -> None:
    """Let modules of a package be imported where the package itself cannot."""
    specification = importlib.util.find_spec(package)
    if specification is None:
        pytest.skip(f"no {package}")
    (root,) = specification.submodule_search_locations
    for name in ("", *folders):
        module = types.ModuleType(f"{package}.{name}" if name else package)
        module.__path__ = [str(Path(root) / name)]
        monkeypatch.setitem(sys.modules, module.__name__, module)


@pytest.mark.parametrize("example", EXAMPLES, ids=["plain", "masks", "lightly", "solo-learn"])
def test_examples_run(photographs, example, monkeypatch):
    if "from lightly." in example:
        pytest.importorskip("lightly")
    if "from solo." in example:
        without_its_init(monkeypatch, "solo", "losses", "utils")
    names = {"IMAGES": photographs.images, "MASKS": photographs.masks}
    exec(compile(example, "docs/trainers.md", "exec"), names)
    if "first" in names:
        assert names["first"].shape == names["second"].shape == (4, 3, 32, 32)
    if "its_mask" in names:
        assert names["mask"].shape == (32, 32) and names["image"].shape == (3, 32, 32)
    if "loss" in names:
        assert torch.isfinite(names["loss"])
