"""Draws that are stored: runs keep their views from version to version.

`stored_draws.npz` has, for each recipe, pasting, key and size below, in this order, the view's
parameters, box, whether it is pasted and its mask blurred, and the background's numbers.
"""

from itertools import product
from pathlib import Path

import numpy as np

from pretrain.views.draws import draw_view, uniforms
from pretrain.views.loader import epoch_order
from pretrain.views.recipes import PasteSettings, ViewRecipe, instdisc, moco_v2
from tests.pretrain.table1 import table1

STORED = np.load(Path(__file__).with_name("stored_draws.npz"))
RECIPES = (
    instdisc(16),
    moco_v2(16),
    table1("flip", 16),
    table1("spatial_crop", 16),
    ViewRecipe(views=3, image_size=16, blur=1.0, blur_sigma=(0.5, 1.5), scale=(0.08, 0.5)),
)
PASTES = (
    None,
    PasteSettings(),
    PasteSettings(paste_probability=1.0, blend="gaussian", blend_sigma=2.0),
    PasteSettings(paste_probability=0.7, blend="mix", blend_sigma=4.0),
    PasteSettings(paste_probability=0.8, background="texture", background_pool="textures"),
)
KEYS = ((0, 0, 0, 0), (0, 0, 1, 0), (0, 1, 0, 0), (7, 3, 12345, 1), (2**63 + 5, 199, 1281166, 2))
SIZES = ((40, 64), (500, 375), (3, 901))


def test_draws_do_not_move():
    rows = []
    for recipe, paste, key, size in product(RECIPES, PASTES, KEYS, SIZES):
        draw = draw_view(recipe, paste, uniforms(*key), size)
        rest = (*draw.box, draw.paste, draw.blur_mask, draw.background, *draw.offset)
        rows.append(np.concatenate([draw.parameters.astype(np.float64), rest]))
    assert np.array_equal(np.array(rows), STORED["draws"])


def test_orders_do_not_move():
    orders = [epoch_order(seed, epoch, 50) for seed, epoch in ((0, 0), (0, 1), (2**63 + 5, 199))]
    assert np.array_equal(orders, STORED["orders"])
