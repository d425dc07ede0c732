"""Every mode of Pillow's becomes the RGB one expects."""

import numpy as np
import pytest
from PIL import Image

from data.images import modes as image_modes
from data.images.decode import decode
from data.images.modes import to_rgb

RAMP = np.arange(256, dtype=np.uint8).reshape(16, 16)


def saved(tmp_path, image, kind, **options):
    path = tmp_path / "image"
    image.save(path, kind, **options)
    return decode(path).image


def test_gray(tmp_path):
    assert np.array_equal(saved(tmp_path, Image.fromarray(RAMP), "PNG"), np.dstack([RAMP] * 3))


def test_gray_jpeg(tmp_path):
    image = saved(tmp_path, Image.fromarray(RAMP), "JPEG", quality=100)
    assert (image == image[..., :1]).all()
    assert np.abs(image[..., 0].astype(int) - RAMP).max() <= 2


def test_one_bit(tmp_path):
    image = saved(tmp_path, Image.fromarray(RAMP > 99), "PNG")
    assert np.array_equal(image[..., 0], (RAMP > 99) * 255)


def test_palette(tmp_path):
    image = Image.fromarray(RAMP).convert("P")
    image.putpalette([value for i in range(256) for value in (i, 255 - i, 7)])
    rgb = saved(tmp_path, image, "PNG")
    assert np.array_equal(rgb, np.dstack([RAMP, 255 - RAMP, np.full_like(RAMP, 7)]))


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_16_bits_are_scaled_not_clipped(tmp_path, kind):
    deep = (np.arange(65536, dtype=np.uint16)[::16]).reshape(64, 64)
    rgb = saved(tmp_path, Image.fromarray(deep), kind)
    assert np.array_equal(rgb[..., 0], np.rint(deep / 257).astype(np.uint8))
    dark = np.minimum(deep, 200)  # a dark image stays dark
    assert saved(tmp_path, Image.fromarray(dark), kind).max() == 1


def test_16_bit_big_endian(tmp_path):
    deep = np.array([[0, 257 * 100, 65535]], ">u2")
    (tmp_path / "a.pgm").write_bytes(b"P5 3 1 65535\n" + deep.tobytes())
    assert decode(tmp_path / "a.pgm").image[0, :, 0].tolist() == [0, 100, 255]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.0, 0.5, 1.0], [0, 128, 255]),
        ([0.0, 100.0, 200.0], [0, 100, 200]),
        ([-10.0, 0.0, 10.0], [0, 128, 255]),
        ([np.nan, 0.0, 1.0], [0, 0, 255]),
        ([5000.0, 5000.0, 5000.0], [0, 0, 0]),
    ],
)
def test_floating_point_by_range(tmp_path, values, expected):
    image = Image.fromarray(np.array([values], np.float32))
    assert saved(tmp_path, image, "TIFF")[0, :, 0].tolist() == expected


def test_32_bit_integers(tmp_path):
    image = Image.fromarray(np.array([[0, 50_000, 100_000]], np.int32))
    assert saved(tmp_path, image, "TIFF")[0, :, 0].tolist() == [0, 128, 255]


def test_cmyk(tmp_path):
    cmyk = Image.new("CMYK", (16, 16), (0, 255, 255, 0))  # red
    red = saved(tmp_path, cmyk, "JPEG", quality=100)
    assert np.abs(red.astype(int) - (255, 0, 0)).max() <= 3
    assert (saved(tmp_path, cmyk, "TIFF") == (255, 0, 0)).all()


def test_behind_transparent_pixels_there_is_white(tmp_path):
    rgba = np.zeros((1, 3, 4), np.uint8)
    rgba[0] = [(200, 0, 0, 255), (200, 0, 0, 0), (0, 0, 0, 51)]
    expected = [[200, 0, 0], [255, 255, 255], [204, 204, 204]]
    assert saved(tmp_path, Image.fromarray(rgba), "PNG")[0].tolist() == expected
    gray = Image.fromarray(np.array([[[9, 255], [9, 0]]], np.uint8), "LA")
    assert saved(tmp_path, gray, "PNG")[0].tolist() == [[9] * 3, [255] * 3]


def test_a_transparent_colour(tmp_path):
    rgb = Image.fromarray(np.array([[[1, 2, 3], [4, 5, 6]]], np.uint8))
    image = saved(tmp_path, rgb, "PNG", transparency=(1, 2, 3))
    assert image[0].tolist() == [[255, 255, 255], [4, 5, 6]]
    palette = Image.fromarray(np.array([[0, 1]], np.uint8)).convert("P")
    palette.putpalette([10, 10, 10, 20, 20, 20])
    image = saved(tmp_path, palette, "GIF", transparency=1)
    assert image[0].tolist() == [[10] * 3, [255] * 3]


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P", "CMYK", "I;16", "1", "F"])
@pytest.mark.parametrize("factor", [1, 3])
def test_bands_make_no_difference(monkeypatch, mode, factor):
    rng = np.random.default_rng(0)
    if mode == "I;16":
        image = Image.fromarray(rng.integers(0, 65536, (50, 37), np.uint16))
    else:
        image = Image.fromarray(rng.integers(0, 256, (50, 37, 3), np.uint8)).convert(mode)
    whole = to_rgb(image, factor)
    monkeypatch.setattr(image_modes, "_BAND", 37 * 7)
    assert np.array_equal(to_rgb(image, factor), whole)
    assert whole.shape == (-(-50 // factor), -(-37 // factor), 3)
