"""views.png: every stage in its cell."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from pretrain.preview import save_views
from pretrain.views.augment import DeviceAugment
from pretrain.views.loader import build_loader
from pretrain.views.recipes import PasteSettings, ViewRecipe


@pytest.mark.parametrize("views", [1, 2])
def test_cells_show_the_stages_that_the_model_sees(photographs, tmp_path, views):
    recipe = ViewRecipe(views=views, image_size=160)  # a cell's size: pixels can be compared
    loader = build_loader(
        photographs.images,
        photographs.masks,
        recipe=recipe,
        paste=PasteSettings(probability=1),
        batch_size=4,
    )
    batch = next(iter(loader))
    augment = DeviceAugment(recipe)
    save_views(tmp_path / "views.png", batch, augment, photographs.images, loader.keys, count=3)
    sheet = np.asarray(Image.open(tmp_path / "views.png"))
    assert [path.name for path in tmp_path.iterdir()] == ["views.png"]
    stages = augment.preview(batch)
    for row in range(3):
        top = 24 + row * 202 + 18
        for view in range(views):
            for place, stage in enumerate(("image", "mask", "pasted", "view")):
                left = 6 + (1 + 4 * view + place) * 166
                cell = sheet[top : top + 160, left : left + 160]
                expected = stages[stage][row, view].expand(3, 160, 160).permute(1, 2, 0) * 255
                assert np.abs(cell - expected.clamp(0, 255).numpy()).max() <= 0.51, stage


def test_without_pasting_and_without_the_files(photographs, tmp_path):
    recipe = ViewRecipe(image_size=16)
    loader = build_loader(photographs.images, recipe=recipe, batch_size=2)
    batch = next(iter(loader))
    save_views(tmp_path / "v.png", batch, DeviceAugment(recipe), tmp_path / "gone", loader.keys)
    assert Image.open(tmp_path / "v.png").size == (6 + 3 * 166, 24 + 2 * 202)


def test_a_folder_that_cannot_be_written_is_told(photographs, tmp_path):
    recipe = ViewRecipe(image_size=16)
    loader = build_loader(photographs.images, recipe=recipe, batch_size=2)
    (tmp_path / "no").touch()  # a file where the folder should be
    path = tmp_path / "no" / "v.png"
    with pytest.raises(OSError, match="no"):
        save_views(path, next(iter(loader)), DeviceAugment(recipe), tmp_path, loader.keys)
