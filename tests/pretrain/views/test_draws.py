"""The recipes' parameters: ranges, distribution against torchvision's, streams."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from scipy.stats import kstest
from torchvision.transforms import v2

from data.errors import UserError
from data.options import build
from pretrain.views.draws import COLUMN, UNIFORMS, draw_view, uniforms
from pretrain.views.recipes import PasteSettings, ViewRecipe, instdisc, moco_v2
from tests.pretrain.table1 import TABLE1, table1

IMAGE_SIZE = (375, 500)


def draws(recipe, paste=None, count=2000, image_size=IMAGE_SIZE):
    return [draw_view(recipe, paste, uniforms(0, 0, i, 0), image_size) for i in range(count)]


def column(views, name):
    return np.array([view.parameters[COLUMN[name]] for view in views])


def test_uniforms_are_philox_of_the_four_numbers():
    """Golden: another order of draws, another generator or another key would change every run."""
    assert uniforms(7, 3, 123456, 1)[:3].tolist() == pytest.approx(
        np.random.Generator(np.random.Philox(key=[7, 0], counter=[0, 1, 123456, 3])).random(3)
    )
    assert uniforms(0, 0, 0, 0).shape == (UNIFORMS,)
    streams = {
        tuple(uniforms(*numbers))
        for numbers in [(0, 0, 0, 0), (1, 0, 0, 0), (0, 1, 0, 0), (0, 0, 1, 0), (0, 0, 0, 1)]
    }
    assert len({number for stream in streams for number in stream}) == 5 * UNIFORMS


def test_scale_crop_is_distributed_as_torchvisions():
    """Kolmogorov-Smirnov on area, aspect ratio and position, 2000 crops of each."""
    ours = np.array([view.box for view in draws(instdisc())], float)
    theirs = v2.RandomResizedCrop(224, scale=(0.2, 1))
    torch.manual_seed(0)
    image = torch.empty(3, *IMAGE_SIZE)
    crops = [theirs.make_params([image]) for _ in range(2000)]
    theirs = np.array([[crop[k] for k in ("top", "left", "height", "width")] for crop in crops])
    for measure in (
        lambda box: box[:, 2] * box[:, 3],
        lambda box: box[:, 2] / box[:, 3],
        lambda box: box[:, 0],
        lambda box: box[:, 1],
    ):
        assert kstest(measure(ours), measure(theirs)).pvalue > 0.01


@pytest.mark.parametrize("image_size", [(375, 500), (1, 1), (3, 400), (400, 3), (224, 224)])
@pytest.mark.parametrize("crop", ["scale", "spatial", "center"])
def test_boxes_lie_within_the_image(crop, image_size):
    for view in draws(ViewRecipe(crop=crop), count=200, image_size=image_size):
        top, left, height, width = view.box
        assert top >= 0 and left >= 0 and height >= 1 and width >= 1
        assert top + height <= image_size[0] and left + width <= image_size[1]


def test_a_long_image_takes_torchvisions_central_fallback():
    views = draws(ViewRecipe(scale=(0.9, 1)), count=5, image_size=(30, 900))
    assert {view.box for view in views} == {(0, 430, 30, 40)}


def test_parameters_have_the_recipes_ranges_and_frequencies():
    views = draws(moco_v2())
    for name, low, high in [
        ("brightness", 0.6, 1.4),
        ("contrast", 0.6, 1.4),
        ("saturation", 0.6, 1.4),
        ("hue", -0.1, 0.1),
    ]:
        assert kstest(column(views, name), "uniform", (low, high - low)).pvalue > 0.01
    for name, probability in [("flip", 0.5), ("gray", 0.2), ("jitter", 0.8)]:
        assert abs(column(views, name).mean() - probability) < 0.03
    blur = column(views, "blur")
    assert abs((blur > 0).mean() - 0.5) < 0.03
    assert kstest(blur[blur > 0], "uniform", (0.1, 1.9)).pvalue > 0.01
    assert set(column(views, "order")) == set(range(24))


def test_instdisc_jitters_always():
    assert (column(draws(instdisc()), "jitter") == 1).all()
    assert instdisc().gray_first and not moco_v2().gray_first


def test_paste_follows_its_settings():
    views = draws(instdisc(), PasteSettings(paste_probability=0.3, blend="mix"))
    assert abs(np.mean([view.paste for view in views]) - 0.3) < 0.03
    assert abs(np.mean([view.blur_mask for view in views]) - 0.5) < 0.03
    levels = column(views, "level")
    assert levels.min() == 0 and levels.max() == 254 and (levels == np.floor(levels)).all()
    for blend, share in [("none", 0), ("gaussian", 1)]:
        settings = PasteSettings(blend=blend)
        assert np.mean([v.blur_mask for v in draws(instdisc(), settings, 50)]) == share


def test_table_1_adds_one_augmentation_a_row():
    rows = [table1(row) for row in TABLE1]
    assert rows[-1] == instdisc()
    changed = [
        [name for name in ViewRecipe.model_fields if getattr(a, name) != getattr(b, name)]
        for a, b in itertools.pairwise(rows)
    ]
    assert changed == [["flip"], ["crop"], ["crop"], ["jitter"], ["gray"]]
    centre = draws(rows[0], count=20)
    assert {view.box for view in centre} == {(23, 86, 328, 328)}
    assert not column(centre, "flip").any()
    spatial = {view.box for view in draws(rows[2], count=50)}
    assert len(spatial) > 40 and {box[2:] for box in spatial} == {(328, 328)}


def test_a_switch_changes_no_other_draw():
    full = draws(instdisc(), PasteSettings(), 50)
    bare = draws(instdisc().model_copy(update={"gray": 0, "jitter": 0}), None, 50)
    assert [view.box for view in full] == [view.box for view in bare]
    assert (column(full, "flip") == column(bare, "flip")).all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_size": 0}, "image_size is 0"),
        ({"views": 0}, "views is 0"),
        ({"crop": "middle"}, "'middle'; it should be 'scale', 'spatial', 'center' or 'object'"),
        ({"flip": 1.5}, "flip is 1.5"),
        ({"hue": 0.6}, "hue is 0.6"),
        ({"contrast": -1}, "contrast is -1"),
        ({"scale": (0.5, 0.2)}, "smaller one first and at most 1"),
        ({"blur_sigma": (0, 1)}, "two positive numbers"),
    ],
)
def test_recipes_with_invalid_values_are_refused(changes, message):
    with pytest.raises(UserError) as caught:
        build(ViewRecipe, changes)
    assert message in caught.value.message


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"paste_probability": 2}, "paste_probability is 2"),
        ({"background": "red"}, "'red'; choose one of grayscale, texture, imagenet"),
        ({"background": "texture"}, "give a folder of textures"),
        ({"background": "imagenet"}, "mask-shards backgrounds"),
        ({"blend": "hard"}, "'hard'; it should be 'none', 'gaussian' or 'mix'"),
        ({"blend_sigma": 0}, "blend_sigma is 0"),
    ],
)
def test_paste_settings_with_invalid_values_are_refused(changes, message):
    with pytest.raises(UserError) as caught:
        build(PasteSettings, changes)
    assert message in caught.value.message
