"""Cropping and resizing against torchvision and Pillow."""

from __future__ import annotations

import numpy as np
import pytest
import skimage.data
import torch
from PIL import Image
from torchvision.transforms.v2 import functional

from data.images.crop import centre_crop, crop_resize, sample_box

PHOTOGRAPH = skimage.data.coffee()  # 400 x 600


@pytest.mark.parametrize("size", [32, 64, 224])
@pytest.mark.parametrize("box", [(0, 0, 400, 600), (13, 77, 300, 222), (100, 100, 20, 30)])
def test_crop_resize_is_torchvisions_resized_crop(box, size):
    image = torch.from_numpy(PHOTOGRAPH).permute(2, 0, 1)
    theirs = functional.resized_crop(image, *box, [size, size], antialias=True)
    ours = crop_resize(PHOTOGRAPH, box, size)
    assert ours.dtype == np.uint8 and ours.shape == (size, size, 3)
    assert np.array_equal(ours, theirs.permute(1, 2, 0).numpy())


def test_crop_resize_is_within_a_level_of_pillows():
    """Torchvision's other backend, which the authors' recipes used, rounds differently."""
    for top, left, height, width in [(0, 0, 400, 600), (13, 77, 300, 222), (100, 100, 20, 30)]:
        box = (left, top, left + width, top + height)
        theirs = Image.fromarray(PHOTOGRAPH).crop(box).resize((224, 224), Image.BILINEAR)
        ours = crop_resize(PHOTOGRAPH, (top, left, height, width), 224)
        assert np.abs(ours.astype(int) - np.asarray(theirs)).max() <= 1


@pytest.mark.parametrize(
    "shape", [(400, 600), (600, 400), (401, 403), (30, 50), (98, 98), (187, 187), (375, 500)]
)
def test_centre_crop_is_torchvisions(shape):
    image = np.array(Image.fromarray(PHOTOGRAPH).resize(shape[::-1]))
    whole = torch.from_numpy(image).permute(2, 0, 1)
    for size in (32, 63, 224):
        theirs = functional.center_crop(
            functional.resize(whole, [round(size * 256 / 224)], antialias=True), [size, size]
        )
        assert np.array_equal(centre_crop(image, size), theirs.permute(1, 2, 0).numpy())


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    "box", [(0, 0, 400, 600), (10.3, 20.7, 200.5, 250.25), (350.5, 500.25, 49.5, 99.75)]
)
def test_sample_box_enlarges_as_pillow_does(box, channels):
    image = PHOTOGRAPH if channels == 3 else PHOTOGRAPH[..., 1]
    top, left, height, width = box
    size = (450, 620)
    theirs = Image.fromarray(image).resize(
        size[::-1], Image.BILINEAR, box=(left, top, left + width, top + height)
    )
    difference = np.abs(sample_box(image, box, size).astype(int) - np.asarray(theirs))
    assert difference.max() <= 1  # Pillow rounds twice, after each pass


def test_centre_crop_of_a_long_strip_is_its_middle():
    """The whole of it, resized, would have 6 GB."""
    strip = np.zeros((2, 60000, 3), np.uint8)
    strip[:, 29980:30020] = 200
    assert (centre_crop(strip, 224)[:, 10:-10] == 200).all()
    assert (centre_crop(strip.transpose(1, 0, 2), 224)[10:-10] == 200).all()


def bilinear(array, box, size):
    """The same, pixel by pixel in float64."""
    top, left, height, width = box
    expected = np.empty((*size, *array.shape[2:]))
    for y in range(size[0]):
        at_y = np.clip(top + (y + 0.5) * height / size[0] - 0.5, 0, array.shape[0] - 1)
        for x in range(size[1]):
            at_x = np.clip(left + (x + 0.5) * width / size[1] - 0.5, 0, array.shape[1] - 1)
            i, j = int(at_y), int(at_x)
            below, beside = min(i + 1, array.shape[0] - 1), min(j + 1, array.shape[1] - 1)
            v, u = at_y - i, at_x - j
            expected[y, x] = (1 - v) * ((1 - u) * array[i, j] + u * array[i, beside]) + v * (
                (1 - u) * array[below, j] + u * array[below, beside]
            )
    return expected


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (7, 1), (2, 2), (9, 13), (9, 13, 3), (1, 4, 3)])
def test_sample_box_is_plain_bilinear_sampling(shape):
    rng = np.random.default_rng(len(shape))
    array = rng.integers(0, 256, shape, np.uint8)
    for _ in range(20):
        size = tuple(rng.integers(1, 30, 2))
        height, width = rng.uniform(0.01, 1.4, 2) * size  # below 1.5: nothing is averaged first
        box = (*(rng.uniform(-3, shape[:2])), height, width)
        error = sample_box(array, box, size) - bilinear(array, box, size)
        assert np.abs(error).max() < 0.501, box


def test_sample_box_takes_an_array_of_any_layout():
    turned = PHOTOGRAPH[::-1, ::-1].transpose(1, 0, 2)
    box, size = (10.2, 5.7, 90.0, 60.0), (100, 70)
    expected = sample_box(turned.copy(), box, size)
    assert np.array_equal(sample_box(turned, box, size), expected)
    read_only = turned.copy()
    read_only.flags.writeable = False
    assert np.array_equal(sample_box(read_only, box, size), expected)


@pytest.mark.parametrize("size", [32, 64, 100, 224])
def test_sample_box_shrinks_antialiased(size):
    """Near Pillow's antialiased triangle, and far nearer than plain bilinear sampling."""
    box = (11.4, 3.3, 380.2, 590.1)
    target = (size, size)
    theirs = np.asarray(
        Image.fromarray(PHOTOGRAPH).resize(
            target, Image.BILINEAR, box=(box[1], box[0], box[1] + box[3], box[0] + box[2])
        )
    ).astype(int)
    error = np.abs(sample_box(PHOTOGRAPH, box, target) - theirs).mean()
    assert error < 3


def test_sample_box_of_a_ramp_is_exact():
    """A linear ramp stays one under bilinear sampling: the half-pixel centres are right."""
    ramp = np.broadcast_to(np.uint8(np.arange(0, 200, 2)), (50, 100))
    sampled = sample_box(ramp, (5.5, 10.25, 30.0, 60.0), (40, 40))
    expected = 2 * (10.25 + (np.arange(40) + 0.5) * 60 / 40 - 0.5)
    assert np.abs(sampled - expected).max() <= 1


def test_sample_box_repeats_the_border_outside():
    array = np.full((10, 10), 7, np.uint8)
    array[:, 5:] = 200
    sampled = sample_box(array, (-20, -20, 50, 50), (50, 50))
    assert set(np.unique(sampled[:, :24])) == {7} and set(np.unique(sampled[:, 26:])) == {200}
