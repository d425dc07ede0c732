"""Places of cut-outs and object crops, against plain constructions."""

import numpy as np
import pytest

from data.backgrounds.partner import object_free, salient_box, tight_box
from pretrain.views.draws import draw_view, later_uniforms, object_crop, uniforms
from pretrain.views.recipes import ViewRecipe
from pretrain.views.swaps import Placement, in_place_of, random_frame, showing
from tests.pretrain.mask_samples import soft_mask


def test_later_draws_are_of_a_stream_of_their_own():
    """Golden: another key or order would change every run with partners."""
    expected = np.random.Generator(np.random.Philox(key=[7, 3], counter=[0, 1, 12, 5])).random(64)
    assert (later_uniforms(7, 5, 12, 1) == expected).all()
    assert not set(later_uniforms(7, 5, 12, 1)) & set(uniforms(7, 5, 12, 1))


def test_tight_and_salient_boxes():
    mask = np.zeros((40, 50), np.uint8)
    assert (
        tight_box(mask) is None
        and tight_box(mask > 0, 0) is None
        and salient_box(mask, (80, 100)) is None
    )
    mask[10:20, 5:25] = 128
    mask[0, 0] = 127  # below one half
    assert tight_box(mask) == (10, 5, 10, 20)
    # a tenth larger, in an image twice as large: 9.5 .. 20.5 and 4 .. 26
    assert salient_box(mask, (80, 100)) == (19, 8, 22, 44)
    assert salient_box(np.full((9, 9), 255, np.uint8), (90, 90)) is None  # above 90 %
    mask[:] = 0
    mask[3:5, 3:5] = 255
    assert salient_box(mask, (80, 100)) is None  # below 2 %


def test_the_largest_strip_is_tiled_over_the_box():
    image = np.random.default_rng(0).integers(0, 256, (12, 10, 3), np.uint8)
    free = object_free(image, (5, 1, 4, 8))  # above it are five rows, more than anywhere else
    for y in range(12):
        for x in range(10):
            inside = 5 <= y < 9 and 1 <= x < 9
            expected = image[(y - 5) % 5, (x - 1) % 10] if inside else image[y, x]
            assert (free[y, x] == expected).all()
    assert object_free(image, (0, 0, 12, 10)) is image


@pytest.mark.parametrize("cut", [(3, 4, 50, 100), (0, 0, 7, 7), (0, 0, 300, 20)])
def test_a_frame_is_instancelocs(cut):
    """Within the view, ratio kept, no side above 254 / 256, the longer above 1 / 4."""
    rng = np.random.default_rng(1)
    frames = np.array([random_frame(cut, 64, rng.random(4)) for _ in range(300)])
    assert (frames[:, :2] >= 0).all() and (frames[:, :2] + frames[:, 2:] <= 64).all()
    assert frames[:, 2:].max(1).max() <= 64 and frames[:, 2:].max(1).min() >= 32
    assert np.abs(frames[:, 2] / cut[2] - frames[:, 3] / cut[3]).max() <= 1 / min(cut[2:])
    numbers = rng.random(4)
    sides = [32 + int(u * 33) for u in numbers[:2]]  # 128 / 256 and 254 / 256 of 64, rounded
    scale = min(sides[0] / cut[2], sides[1] / cut[3])
    expected = [round(cut[2] * scale), round(cut[3] * scale)]
    assert random_frame(cut, 64, numbers)[2:] == tuple(max(1, side) for side in expected)


def test_a_crop_shows_all_of_a_box_and_something_beside_it():
    size = (100, 120)
    assert showing((0, 0, 50, 50), (10, 10, 20, 20), size) == (0, 0, 50, 50)
    assert showing((0, 0, 50, 50), (40, 60, 20, 30), size) == (10, 40, 50, 50)
    assert showing((70, 0, 10, 10), (10, 10, 50, 50), size) == (10, 0, 60, 60)
    assert showing((0, 0, 10, 10), (5, 5, 90, 20), size) == (0, 1, 100, 24)
    rng = np.random.default_rng(0)
    for _ in range(500):
        box, crop = (
            (*(low := rng.integers(0, [60, 80])), *(rng.integers(1, np.array(size) - low + 1)))
            for _ in range(2)
        )
        result = np.array(showing(crop, box, size))
        assert (result[:2] >= 0).all() and (result[:2] + result[2:] <= size).all()
        assert (result[:2] <= box[:2]).all()
        assert (result[:2] + result[2:] >= np.add(box[:2], box[2:])).all()


def test_a_cut_out_takes_the_place_of_a_box():
    cut, crop = (0, 10, 40, 20), (100, 100, 50, 100)
    placement = in_place_of(cut, (110, 120, 20, 50), crop, 100)
    assert placement == Placement(cut, (20, 20, 40, 50))
    canvas = placement.paste(100, lambda box, size: np.full((*size, 3), box[1], np.uint8))
    assert canvas.sum() == 10 * 3 * 40 * 50 and canvas[20, 20, 0] == 10


def test_object_crops_keep_the_object():
    mask, size = np.zeros((60, 80), np.uint8), (120, 160)
    mask[35:55, 50:75] = 255
    recipe = ViewRecipe(crop="object", crop_keeps=0.6, scale=(0.1, 0.5))
    kept, plain, crops = [], [], []
    for index in range(300):
        numbers, later = uniforms(0, 0, index, 0), later_uniforms(0, 0, index, 0)
        crop = draw_view(recipe, None, numbers, size, later, mask).box
        other = draw_view(recipe, None, numbers, size, later).box  # no mask: a scale crop
        assert other == draw_view(ViewRecipe(scale=(0.1, 0.5)), None, numbers, size).box
        for box, shares in ((crop, kept), (other, plain)):
            y, x = np.mgrid[:60, :80]
            inside = (y >= box[0] // 2) & (y < (box[0] + box[2] + 1) // 2)
            inside &= (x >= box[1] // 2) & (x < (box[1] + box[3] + 1) // 2)
            shares.append(mask[inside].sum() / mask.sum())
        assert crop[0] >= 0 and crop[1] >= 0
        assert crop[0] + crop[2] <= 120 and crop[1] + crop[3] <= 160
        crops.append(crop)
    assert np.mean(np.array(kept) > 0.57) > 0.99 and np.mean(np.array(plain) > 0.57) < 0.6
    assert len(set(crops)) > 290


def test_object_crops_of_odd_masks():
    u = np.full((10, 2), 0.5)
    assert object_crop([(5, 5)], u, np.zeros((9, 9), np.uint8), (9, 9), 0.2, 0.2) is None
    assert object_crop([], u, np.full((9, 9), 255, np.uint8), (9, 9), 0.2, 0.2) is None
    # a full mask: no crop can keep .9 of it, and the bound gives way
    assert object_crop([(5, 4)], u, np.full((9, 9), 255, np.uint8), (9, 9), 0.9, 0.2)[2:] == (5, 4)
    mask = np.zeros((100, 100), np.uint8)
    mask[:10, :10] = mask[-10:, -10:] = 255  # two corners: the best of several poor crops
    sizes = [(20, 20)] * 10
    crop = object_crop(sizes, np.linspace(0.2, 0.8, 20).reshape(10, 2), mask, (100, 100), 0.9, 0.01)
    assert crop[2:] == (20, 20)
    assert salient_box(soft_mask((50, 50)), (100, 100)) is not None
