"""Masks as other tools store them."""

import numpy as np
import pytest
from PIL import Image

from data.images.decode import UnreadableImage
from data.masks.picture import read_mask

GRAY = np.array([[0, 100, 255]], np.uint8)


@pytest.fixture
def read(tmp_path):
    def read(picture, ending="png", **options):
        image = Image.fromarray(picture) if isinstance(picture, np.ndarray) else picture
        image.save(tmp_path / f"m.{ending}", **options)
        return read_mask(tmp_path / f"m.{ending}").tolist()

    return read


def test_grays(read):
    assert read(GRAY) == GRAY.tolist()
    assert read(np.dstack([GRAY] * 3)) == GRAY.tolist()
    assert read(GRAY.astype(np.uint16) * 257) == GRAY.tolist()
    assert read(GRAY > 99) == [[0, 255, 255]]
    assert read(np.float32(GRAY) / 255, "tiff") == GRAY.tolist()


def test_zeros_and_ones_are_black_and_white(read):
    for dtype in (np.uint8, np.uint16):
        for values in ([0, 1, 1], [1, 1, 1], [0, 0, 0]):
            expected = [[255 * value for value in values]]
            one = np.array([values], dtype)
            assert read(one) == expected
            if dtype == np.uint8:
                assert read(np.dstack([one] * 3)) == expected
                assert read(np.dstack([one, 0 * one, 0 * one])) == expected  # a single band
                assert read(np.dstack([one] * 3 + [0 * one + 255])) == expected  # opaque
                palette = Image.fromarray(one).convert("P")
                palette.putpalette(bytes(range(256)) * 3)  # indices 0 and 1, not gray
                assert read(palette) == expected


def a_palette(indices, *colours):
    image = Image.frombytes("P", (len(indices), 1), bytes(indices))
    image.putpalette([value for colour in colours for value in colour])
    return image


def test_labels_with_a_palette(read):
    """All classes are foreground, and the border that VOC leaves out; black is background."""
    black, red, green, beige = (0, 0, 0), (128, 0, 0), (0, 128, 0), (224, 224, 192)
    voc = [black, red, green, *[(64, 0, number) for number in range(252)], beige]
    assert read(a_palette([0, 1, 2, 255], *voc)) == [[0, 255, 255, 255]]
    assert read(a_palette([1, 2], *voc)) == [[255, 255]]
    assert read(a_palette([0, 0], *voc)) == [[0, 0]]
    assert read(a_palette([0, 1], black, red)) == [[0, 255]]
    assert read(a_palette([0, 1], red, black)) == [[255, 0]]  # as a program that counts colours may
    assert read(a_palette([0, 1], beige, red)) == [[0, 255]]


def test_grays_with_a_palette(read):
    """As programs write them that make PNG files smaller."""
    levels = [(value, value, value) for value in (255, 100, 0)]
    assert read(a_palette([0, 1, 2], *levels)) == [[255, 100, 0]]
    assert read(a_palette([0, 1, 0], (0, 0, 0), (1, 1, 1))) == [[0, 255, 0]]


def test_cut_outs(read):
    cut_out = np.dstack([np.full((1, 3), 9, np.uint8)] * 3 + [GRAY])
    assert read(cut_out) == GRAY.tolist()
    opaque = np.dstack([GRAY] * 3 + [np.full((1, 3), 255, np.uint8)])
    assert read(opaque) == GRAY.tolist()  # a mask that a tool saved with four bands


PHOTOGRAPH = np.array([[[200, 30, 60], [20, 180, 40]]], np.uint8)


@pytest.mark.parametrize("level", [0, 7, 128, 255])
def test_a_cut_out_of_nothing_or_of_all_is_a_mask(read, level):
    cut_out = np.dstack([PHOTOGRAPH, np.full((1, 2), level, np.uint8)])
    assert read(cut_out) == read(cut_out, "tiff") == [[level, level]]


def test_a_photograph_is_no_mask(read):
    with pytest.raises(UnreadableImage, match="colours"):
        read(PHOTOGRAPH)


@pytest.mark.parametrize("ending", ["jpg", "webp"])
def test_a_mask_that_was_compressed_with_loss_is_gray(read, ending):
    disc = np.hypot(*np.mgrid[-32:32, -32:32]) < 20
    mask = Image.fromarray(disc).convert("L").convert("RGB")
    values = np.array(read(mask, ending, quality=30))
    assert values[disc].mean() > 245 and values[~disc].mean() < 10


@pytest.mark.parametrize("levels", [[0, 1, 2], [0, 15, 255], [0, 1, 255], [3, 3, 7]])
def test_numbers_of_labels_are_refused(read, levels):
    with pytest.raises(UnreadableImage, match="numbers of labels"):
        read(np.array([levels], np.uint8))


def test_what_is_no_picture(tmp_path):
    (tmp_path / "m.png").write_bytes(b"")
    with pytest.raises(UnreadableImage, match="empty file"):
        read_mask(tmp_path / "m.png")
