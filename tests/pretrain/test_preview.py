"""views.png: every stage in its cell."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from pretrain.pictures import SIDE, views_gallery
from pretrain.views.augment import DeviceAugment
from pretrain.views.loader import build_loader
from pretrain.views.recipes import PasteSettings, ViewRecipe


@pytest.mark.parametrize("views", [1, 2])
def test_cells_show_the_stages_that_the_model_sees(photographs, tmp_path, views):
    recipe = ViewRecipe(views=views, image_size=160)  # a cell's size
    loader = build_loader(
        photographs.images,
        photographs.masks,
        recipe=recipe,
        paste=PasteSettings(paste_probability=1),
        batch_size=4,
    )
    batch = next(iter(loader))
    augment = DeviceAugment(recipe)
    gallery = views_gallery(batch, augment, photographs.images, loader.keys, count=3)
    stages = augment.preview(batch)
    assert len(gallery.rows) == 3
    for number, row in enumerate(gallery.rows):
        assert row.caption == loader.keys[int(batch["index"][number])]
        for view in range(views):
            for position, stage in enumerate(("image", "mask", "pasted", "view")):
                picture = row.cells[1 + 4 * view + position].picture
                expected = stages[stage][number, view].permute(1, 2, 0).clamp(0, 1) * 255
                assert np.abs(np.atleast_3d(picture) - expected.numpy()).max() <= 0.51, stage
    gallery.save_png(tmp_path / "views.png", side=SIDE)
    assert [path.name for path in tmp_path.iterdir()] == ["views.png"]
    sheet = np.asarray(Image.open(tmp_path / "views.png"))
    last = gallery.rows[-1].cells[-1].picture
    windows = np.lib.stride_tricks.sliding_window_view(sheet, (160, 160, 3))[:, :, 0]
    corners = np.argwhere((windows[:, :, 80, 80] == last[80, 80]).all(-1))
    assert any(np.array_equal(windows[y, x], last) for y, x in corners)  # as large as a cell


def test_without_pasting_and_without_the_files(photographs, tmp_path):
    recipe = ViewRecipe(image_size=16)
    loader = build_loader(photographs.images, recipe=recipe, batch_size=2)
    batch = next(iter(loader))
    gallery = views_gallery(batch, DeviceAugment(recipe), tmp_path / "gone", loader.keys)
    gallery.save_png(tmp_path / "v.png", side=SIDE)
    cells = gallery.rows[0].cells
    assert [cell.picture is None for cell in cells] == [True, False, False]
    assert "no such file" in cells[0].caption
    assert Image.open(tmp_path / "v.png").width > 3 * 160


def test_a_negative_and_the_objects_boxes_are_drawn(photographs):
    recipe = ViewRecipe(views=1, image_size=32)
    loader = build_loader(
        photographs.images, photographs.masks, recipe=recipe, batch_size=3, saliency=True,
        negative=True, paste=PasteSettings(paste_probability=1, background="box-swap"),
    )  # fmt: skip
    batch, augment = next(iter(loader)), DeviceAugment(recipe)
    gallery = views_gallery(batch, augment, photographs.images, loader.keys)
    assert gallery.columns[-5:] == [
        f"{name} of the negative" for name in ("crop", "mask", "pasted", "saliency", "view")
    ]
    views = augment.views(batch, torch.arange(3), ("saliency", "boxes"))
    for row, cells in enumerate(gallery.rows):
        drawn = (cells.cells[4].picture == (255, 140, 0)).all(-1)
        rows, columns = np.flatnonzero(drawn.any(1)), np.flatnonzero(drawn.any(0))
        box = (rows[0], columns[0], len(rows), len(columns))
        assert box == tuple(views.boxes[row, 0].int().tolist())
