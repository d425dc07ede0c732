"""Real photographs with masks, as a folder of images and a folder of shards."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
import skimage.data
import torch
from PIL import Image, ImageFilter

from data.images.listing import list_images
from tests.pretrain.mask_samples import soft_mask, write_masks


@dataclass
class Photographs:
    images: Path
    masks: Path
    sizes: dict[str, tuple[int, int]]


@pytest.fixture(scope="session")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Photographs:
    """Twelve JPEGs of several sizes in two class folders, with soft masks of at most 100 pixels."""
    root = tmp_path_factory.mktemp("photographs")
    sizes = {}
    for number in range(12):
        name = ("astronaut", "chelsea", "coffee", "rocket")[number % 4]
        photograph = Image.fromarray(getattr(skimage.data, name)()).convert("RGB")
        side = 120 + 10 * number
        photograph.thumbnail((side, side))
        if number >= 4:
            photograph = photograph.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        if number >= 8:
            photograph = photograph.filter(ImageFilter.GaussianBlur(1))
        key = f"class{number % 2}/{name}-{number}.jpg"
        path = root / "images" / key
        path.parent.mkdir(parents=True, exist_ok=True)
        photograph.save(path, quality=95)
        sizes[key] = (photograph.height, photograph.width)
    rows = {}
    for number, (key, (height, width)) in enumerate(sizes.items()):
        scale = min(1.0, 100 / max(height, width))
        rows[key] = (
            soft_mask((round(height * scale), round(width * scale)), number),
            (height, width),
        )
    write_masks(root / "masks", rows)
    assert len(list_images(root / "images")) == 12
    return Photographs(root / "images", root / "masks", sizes)


@pytest.fixture(autouse=True)
def _same_numbers() -> None:
    """Tests that draw from torch's global generator draw the same in any order."""
    torch.manual_seed(1234)  # not 0, the default seed of banks and queues: it would draw the same
