"""Pictures of masks show what is stored."""

import numpy as np
import pytest
from PIL import Image

from data.gallery.masks import (
    headings,
    mask_gallery,
    mask_row,
    over_grey,
    two_abreast,
)
from data.masks.picture import scale_mask
from data.masks.read import MaskShards


def test_scaling_is_bilinear_with_half_pixel_centres():
    mask = np.array([[0, 100]], np.uint8)
    # centres of four pixels over two: -.25, .25, .75, 1.25 -> clamped at the borders
    assert scale_mask(mask, (1, 4)).tolist() == [[0, 25, 75, 100]]
    assert scale_mask(mask, (3, 2)).tolist() == [[0, 100]] * 3
    assert scale_mask(mask, (1, 2)) is mask


def test_over_grey_is_the_masks_blend():
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (5, 6, 3), np.uint8)
    mask = rng.integers(0, 256, (5, 6), np.uint8)
    alpha = mask[..., None] / 255
    expected = np.rint(image * alpha + 99 * (1 - alpha))
    assert np.abs(over_grey(image, mask, 99) - expected).max() <= 1
    assert (over_grey(image, np.zeros_like(mask)) == 128).all()
    assert np.array_equal(over_grey(image, np.full_like(mask, 255)), image)


def test_rows(tmp_path, write_shards):
    images = tmp_path / "images"
    images.mkdir()
    Image.new("RGB", (80, 40), "red").save(images / "a.png")
    Image.new("RGB", (80, 40), "red").save(images / "c.png")
    mask = np.zeros((20, 40), np.uint8)
    mask[:, 20:] = 255
    contents = {"a.png": mask, "b.png": "empty file", "c.png": np.zeros((20, 40), np.uint8)}
    write_shards(tmp_path / "out", contents)
    write_shards(tmp_path / "other", {"x.png": mask}, method="mc")
    sets = [MaskShards(tmp_path / "out"), MaskShards(tmp_path / "other")]
    assert headings(sets) == ["rbd", "mc"]
    assert headings([sets[0], sets[0]]) == ["rbd (out)", "rbd (out)"]

    row = mask_row("a.png", sets, images, 60)
    image, mask_cell, foreground, other, nothing = row.cells
    assert image.picture.shape == (30, 60, 3) and image.caption == "80 x 40"
    assert mask_cell.picture.shape == (30, 60) and mask_cell.caption == "covers 50%"
    assert (foreground.picture[:, 50:] == (255, 0, 0)).all()
    assert (foreground.picture[:, :10] == 128).all()
    assert other.picture is nothing.picture is None and other.caption == "not in these shards"

    image, mask_cell, _ = mask_row("b.png", sets[:1], images, 60).cells
    assert image.picture is None and image.caption == "no such file or folder"
    assert mask_cell.caption == "unreadable: empty file"

    write_shards(tmp_path / "whole", {"a.png": np.full((20, 40), 250, np.uint8)})
    whole = mask_row("a.png", [MaskShards(tmp_path / "whole")], images, 60).cells[1]
    assert whole.caption == "covers 98%: too poor to paste, nearly everything"

    assert mask_row("c.png", sets[:1], images, 60).cells[1].caption == "nothing stands out"
    image, mask_cell, foreground = mask_row("a.png", sets[:1], None, 10).cells
    assert image.picture is foreground.picture is None
    assert mask_cell.picture.shape == (5, 10)

    gallery = mask_gallery(["a.png", "b.png", "c.png"], sets[:1], images, 60)
    assert gallery.columns == ["image", "rbd: mask", "foreground"] and len(gallery.rows) == 3
    abreast = two_abreast(gallery)
    assert [len(row.cells) for row in abreast.rows] == [6, 3] and len(abreast.columns) == 6
    assert abreast.rows[0].cells[0].caption == "a.png: 80 x 40"
    assert abreast.draw(side=100).width > 600


@pytest.mark.parametrize("key", ["../outside.png", "a/../../outside.png", "/outside.png"])
def test_a_key_does_not_lead_out_of_the_image_folder(tmp_path, write_shards, key):
    (tmp_path / "images" / "a").mkdir(parents=True)
    Image.new("RGB", (8, 8), "red").save(tmp_path / "outside.png")
    write_shards(tmp_path / "out", {key: np.ones((8, 8), np.uint8)}, index=False)
    row = mask_row(key, [MaskShards(tmp_path / "out")], tmp_path / "images", 50)
    assert row.cells[0].picture is None
    assert "does not name a file inside" in row.cells[0].caption
