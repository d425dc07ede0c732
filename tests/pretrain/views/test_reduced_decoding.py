"""Large JPEGs are reduced while they are decoded: the views are the same within a pixel."""

import cv2
import numpy as np
import pytest
import skimage.data
import torch

from data.images.crop import reduction_for, snap_box
from data.images.decode import OpenImage, decode, open_image
from pretrain.views.loader import build_loader
from pretrain.views.recipes import PasteSettings, ViewRecipe
from tests.pretrain.mask_samples import write_masks

SIZE = (750, 1001)  # odd: the reduced image is rounded up


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """Three large photographs with a bright disc each; the mask is the disc."""
    root = tmp_path_factory.mktemp("large")
    rows = {}
    for number, name in enumerate(("astronaut", "chelsea", "coffee")):
        photograph = cv2.resize(getattr(skimage.data, name)(), SIZE[::-1]) // 3
        disc = np.zeros(SIZE, np.uint8)
        cv2.circle(disc, (400 + 60 * number, 380), 200, 255, -1)
        photograph[disc > 0] = 255
        path = root / "images" / "a" / f"{name}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), photograph[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 95])
        mask = cv2.resize(disc, (401, 300), interpolation=cv2.INTER_AREA)
        rows[f"a/{name}.jpg"] = (mask, SIZE)
    write_masks(root / "masks", rows, canvas=512)
    return root


def views_of(root, **recipe):
    loader = build_loader(
        root / "images",
        root / "masks",
        recipe=ViewRecipe(views=2, image_size=48, **recipe),
        paste=PasteSettings(paste_probability=1.0),
        batch_size=3,
        seed=3,
    )
    (batch,) = list(loader)
    loader.close()
    return batch


def test_factor_never_enlarges():
    assert reduction_for([(0, 0, 447, 900)], 224) == 1
    assert reduction_for([(0, 0, 450, 900)], 224) == 2
    assert reduction_for([(0, 0, 900, 900), (5, 5, 460, 3000)], 224) == 2
    assert reduction_for([(0, 0, 9000, 9000)], 224) == 8


@pytest.mark.parametrize("factor", [2, 4, 8])
def test_snapped_boxes_stay_within_the_image_and_near(factor):
    rng = np.random.default_rng(0)
    for _ in range(300):
        height, width = (int(n) for n in rng.integers(300, 1000, 2))
        tall, wide = int(rng.integers(100, height + 1)), int(rng.integers(100, width + 1))
        top, left = int(rng.integers(height - tall + 1)), int(rng.integers(width - wide + 1))
        box = snap_box((top, left, tall, wide), factor, (height, width))
        assert all(side % factor == 0 for side in box)
        assert box[0] + box[2] <= height and box[1] + box[3] <= width
        assert abs(box[0] - top) <= factor / 2 and abs(box[1] - left) <= factor / 2
        assert abs(box[0] + box[2] - top - tall) < factor
        assert abs(box[1] + box[3] - left - wide) < factor


@pytest.mark.parametrize("factor", [1, 2, 4, 8])
def test_reduced_image_is_the_image_averaged(large, factor):
    path = large / "images" / "a" / "coffee.jpg"
    whole, opened = decode(path), open_image(path)
    assert opened.size == whole.image_size == SIZE
    reduced, reduction = opened.decode(factor)
    assert reduction == factor
    height, width = (factor * (side // factor) for side in SIZE)
    blocks = whole.image[:height, :width].astype(float)
    blocks = blocks.reshape(height // factor, factor, width // factor, factor, 3).mean((1, 3))
    averaged = reduced[: height // factor, : width // factor]
    assert np.abs(averaged - blocks).mean() < 1.5


def test_views_are_the_same_within_interpolation(large, monkeypatch):
    reduced = views_of(large, scale=(0.5, 1.0))
    factors = []

    decode_reduced = OpenImage.decode

    def decode_whole(image, reduction):
        factors.append(reduction)
        return decode_reduced(image)

    monkeypatch.setattr(OpenImage, "decode", decode_whole)
    full = views_of(large, scale=(0.5, 1.0))
    assert factors == [8, 8, 8]
    assert torch.equal(reduced["parameters"], full["parameters"])
    difference = (reduced["image"].float() - full["image"].float()).abs()
    assert 0 < difference.mean() < 2.5
    assert (reduced["mask"].float() - full["mask"].float()).abs().mean() < 4


def test_masks_still_lie_on_their_objects(large):
    batch = views_of(large, scale=(0.5, 1.0))
    bright = batch["image"].float().amin(-1) > 170
    masked = batch["mask"] > 127
    assert (bright == masked).float().mean() > 0.985
    assert masked.float().mean() > 0.1


def test_other_formats_and_turned_images_are_decoded_whole(large, tmp_path):
    image = decode(large / "images" / "a" / "coffee.jpg").image
    cv2.imwrite(str(tmp_path / "image.png"), image)
    pixels, reduction = open_image(tmp_path / "image.png").decode(4)
    assert reduction == 1 and pixels.shape[:2] == SIZE
