"""Swaps between images of a data set, against plain constructions in NumPy."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from data.backgrounds.partner import object_free, salient_box, tight_box
from data.errors import UserError
from data.images.crop import box_within, crop_resize, sample_box
from data.images.decode import decode
from data.images.listing import key_path
from data.masks.read import MaskShards
from pretrain.contract import OPTIONAL
from pretrain.views.augment import DeviceAugment
from pretrain.views.copy_paste import CopyPaste
from pretrain.views.draws import COLUMN, draw_view, later_uniforms, uniforms
from pretrain.views.loader import build_loader
from pretrain.views.recipes import PasteSettings, ViewRecipe
from pretrain.views.swaps import random_frame, showing
from tests.pretrain.mask_samples import write_masks

SIZE, SEED = 120, 5  # large enough that no image is reduced while it is decoded
RECIPE = ViewRecipe(views=2, image_size=SIZE, flip=0, jitter=0, gray=0, mean=(0,) * 3, std=(1,) * 3)


class Plain:
    """The data set read without the loader."""

    def __init__(self, photographs, keys):
        self.images, self.keys, self.shards = (
            photographs.images,
            keys,
            photographs.masks and MaskShards(photographs.masks),
        )

    def image(self, index):
        return decode(key_path(self.images, self.keys[index])).image

    def mask(self, index):
        return self.shards.read(self.keys[index])

    def partner(self, index, view):
        others = [other for other in range(len(self.keys)) if other != index]
        return others[int(later_uniforms(SEED, 0, index, view)[0] * len(others))]

    def alpha(self, index, box):
        mask, size = self.mask(index), self.image(index).shape[:2]
        return sample_box(mask, box_within((0, 0, *mask.shape), box, size), (SIZE, SIZE))

    def free(self, index):
        image = self.image(index)
        return object_free(image, salient_box(self.mask(index), image.shape[:2]))


def load(photographs, paste, **options):
    loader = build_loader(
        photographs.images, photographs.masks, recipe=RECIPE, paste=paste, seed=SEED,
        batch_size=12, **options,
    )  # fmt: skip
    batch = next(iter(loader))
    views = DeviceAugment(RECIPE).views(batch, torch.arange(12), OPTIONAL & set(options))
    return batch, views, Plain(photographs, loader.keys)


def levels(view):
    return view.permute(0, 2, 3, 1).numpy() * 255


def composite(image, alpha, background):
    alpha = alpha[..., None] / 255.0
    return alpha * image + (1 - alpha) * background


def test_mask_swap(photographs):
    """The object where it was, on another image whose object is covered."""
    _, views, plain = load(photographs, PasteSettings(paste_probability=1, background="mask-swap"))
    for row, index in enumerate(views.index.tolist()):
        for view in range(2):
            box = tuple(views.crops[row, view].int().tolist())
            size = plain.image(index).shape[:2]
            numbers = uniforms(SEED, 0, index, view)
            assert box == draw_view(RECIPE, PasteSettings(), numbers, size).box  # as without
            other = plain.free(plain.partner(index, view))
            scale = max(1, size[0] / other.shape[0], size[1] / other.shape[1])
            part = [side / scale for side in size]
            offset = [
                u * max(0, o - p)
                for u, o, p in zip(numbers[35:37], other.shape, part, strict=False)
            ]
            behind = sample_box(other, box_within((*offset, *part), box, size), (SIZE, SIZE))
            expected = composite(
                crop_resize(plain.image(index), box, SIZE), plain.alpha(index, box), behind
            )
            assert np.abs(levels(views.images[view])[row] - expected).max() < 0.01


def test_box_swap_moves_the_object_and_its_saliency(photographs):
    paste = PasteSettings(paste_probability=1, background="box-swap")
    batch, views, plain = load(photographs, paste, saliency=True)
    assert batch["unmoved"].sum() == 0 and (batch["parameters"][..., COLUMN["paste"]] == 1).all()
    for row, index in enumerate(views.index.tolist()):
        for view in range(2):
            image, other = plain.image(index), plain.partner(index, view)
            behind, mask = plain.image(other), plain.mask(index)
            box = salient_box(plain.mask(other), behind.shape[:2])
            numbers = uniforms(SEED, 0, index, view)
            drawn = draw_view(RECIPE, None, numbers, behind.shape[:2]).box
            crop = showing(drawn, box, behind.shape[:2])
            expected = crop_resize(behind, crop, SIZE).astype(float)
            saliency = np.zeros((SIZE, SIZE))
            (top, bottom), (left, right) = (
                [
                    round((end - crop[a]) * SIZE / crop[a + 2])
                    for end in (box[a], box[a] + box[a + 2])
                ]
                for a in (0, 1)
            )
            cut = tuple(views.crops[row, view].int().tolist())
            assert cut == salient_box(mask, image.shape[:2])
            frame = slice(top, bottom), slice(left, right)
            expected[frame] = crop_resize(image, cut, (bottom - top, right - left))
            saliency[frame] = sample_box(
                mask,
                box_within((0, 0, *mask.shape), cut, image.shape[:2]),
                (bottom - top, right - left),
            )
            assert np.abs(levels(views.images[view])[row] - expected).max() < 0.01
            assert np.abs(views.saliency[view][row, 0].numpy() * 255 - saliency).max() < 0.01


def test_a_negative_is_another_object_on_the_first_views_background(photographs):
    for paste in (PasteSettings(), PasteSettings(background="box-swap"), None):
        batch, views, plain = load(photographs, paste, negative=True)
        pasted = batch["parameters"][:, 0, COLUMN["paste"]] > 0
        assert (paste is None) == (not pasted.any()) and not pasted.all()
        assert len(views.images) == 2 and views.crops.shape[1] == 2
        for row, index in enumerate(views.index.tolist()):
            other = plain.partner(index, 2)
            image = plain.image(other)
            box = draw_view(RECIPE, None, uniforms(SEED, 0, index, 2), image.shape[:2]).box
            own = plain.alpha(index, tuple(views.crops[row, 0].int().tolist()))
            behind, hidden = batch["image"][row, 0].numpy(), tight_box(own)
            if pasted[row] and paste.background == "grayscale":
                behind = float(batch["parameters"][row, 0, COLUMN["level"]])
            elif pasted[row]:
                behind = batch["background"][row, 0].numpy()
                hidden = tight_box(batch["mask"][row, 0].numpy())
            if not isinstance(behind, float) and hidden is not None:
                behind = object_free(behind, hidden)
            if hidden == (0, 0, SIZE, SIZE) and not isinstance(behind, float):
                continue
            expected = composite(crop_resize(image, box, SIZE), plain.alpha(other, box), behind)
            assert np.abs(levels(views.negative)[row] - expected).max() < 0.01


def test_a_negative_and_partners_move_no_draw(photographs):
    batch, views, _ = load(photographs, PasteSettings(), negative=True)
    plain, without, _ = load(photographs, PasteSettings())
    assert torch.equal(batch["parameters"][:, :2], plain["parameters"])
    assert without.negative is None
    assert all(map(torch.equal, views.images, without.images))


def test_a_frame_puts_the_cut_out_anywhere(photographs):
    paste = PasteSettings(paste_probability=1, placement="frame", paste_views="first")
    batch, views, _ = load(photographs, paste, saliency=True)
    assert (batch["parameters"][..., COLUMN["paste"]] == torch.tensor([1.0, 0.0])).all()
    alpha = batch["mask"][:, 0].numpy()
    assert (alpha == batch["saliency"][:, 0].numpy()).all()
    boxes = np.array([tight_box(mask) for mask in alpha])
    assert len({tuple(box) for box in boxes}) > 8 and boxes[:, 2:].max(1).min() > SIZE / 3
    outside = levels(views.images[0])[alpha == 0].std(1)
    assert outside.max() < 0.01  # gray


@pytest.mark.parametrize("masks", [True, False])
def test_a_rectangle_is_the_crop_itself(photographs, masks):
    """As InstanceLoc: the crop, its aspect ratio kept, opaque in a random frame; needs no masks."""
    paste = PasteSettings(paste_probability=1, placement="frame", cutout="rectangle")
    given = photographs if masks else replace(photographs, masks=None)
    batch, _, _ = load(given, paste)
    for row, index in enumerate(batch["index"].tolist()):
        key = sorted(photographs.sizes)[index]
        image = decode(photographs.images / key).image
        for view in range(2):
            numbers = (SEED, 0, index, view)
            draw = draw_view(
                RECIPE, paste, uniforms(*numbers), image.shape[:2], later_uniforms(*numbers)
            )
            top, left, height, width = random_frame(draw.box, SIZE, draw.frame)
            alpha = batch["mask"][row, view].numpy()
            assert alpha[top : top + height, left : left + width].min() == 255
            assert (alpha > 0).sum() == height * width
            inside = batch["image"][row, view, top : top + height, left : left + width].numpy()
            assert (inside == crop_resize(image, draw.box, (height, width))).all()


def test_what_has_no_object_is_framed_as_a_rectangle(photographs, tmp_path):
    rows = {}
    for number, (key, (height, width)) in enumerate(sorted(photographs.sizes.items())):
        mask = np.full((height // 2, width // 2), 0 if number % 2 else 255, np.uint8)
        rows[key] = (mask, (height, width))
    write_masks(tmp_path / "masks", rows)
    paste = PasteSettings(paste_probability=1, placement="frame")
    batch, _, _ = load(replace(photographs, masks=tmp_path / "masks"), paste)
    for alpha in batch["mask"].flatten(0, 1).numpy():
        _, _, height, width = tight_box(alpha)
        assert (alpha > 0).sum() == height * width < SIZE * SIZE


def test_workers_and_order_do_not_matter(photographs):
    options = {"negative": True, "saliency": True}
    paste = PasteSettings(background="box-swap")
    one, _, _ = load(photographs, paste, **options)
    two, _, _ = load(photographs, paste, workers=1, **options)
    for name in ("image", "mask", "background", "saliency", "parameters", "crops", "unmoved"):
        assert torch.equal(one[name], two[name])


def test_what_cannot_be_swapped_stays_and_is_counted(photographs, tmp_path):
    """Of twelve masks six are full, one is empty, one image is no image."""
    images = tmp_path / "images"
    shutil.copytree(photographs.images, images)
    rows = {}
    for number, (key, size) in enumerate(sorted(photographs.sizes.items())):
        mask = np.zeros((size[0] // 2, size[1] // 2), np.uint8)
        mask[5:-5, 5:-5] = 255 if number else 0
        if number % 2:
            mask[:] = 255
        rows[key] = (mask, size)
    (images / sorted(rows)[4]).write_bytes(b"")
    write_masks(tmp_path / "masks", rows)
    loader = build_loader(
        images, tmp_path / "masks", recipe=RECIPE, batch_size=12, seed=SEED, negative=True,
        paste=PasteSettings(paste_probability=1, background="box-swap"),
    )  # fmt: skip
    batch = next(iter(loader))
    pasted = batch["parameters"][:, :2, COLUMN["paste"]].sum(1)
    empty = batch["index"] == 0
    assert (pasted + batch["unmoved"] == torch.where(empty, 0, 2)).all()
    assert (batch["unmoved"][batch["index"] % 2 == 1] == 2).all() and pasted.sum() > 0
    assert {name.split(": ")[1] for name in batch["backgrounds_skipped"]} == {"empty file"}


def test_refusals(photographs, tmp_path):
    swap = PasteSettings(background="box-swap")
    with pytest.raises(UserError, match=r"decode is 'device'.*set it to 'workers'"):
        load(photographs, swap, decode_on=torch.device("cpu"))
    with pytest.raises(UserError, match="crop = 'object' needs masks"):
        build_loader(
            photographs.images, recipe=RECIPE.model_copy(update={"crop": "object"}), batch_size=2
        )
    with pytest.raises(UserError, match="partners are images of a whole data set"):
        CopyPaste("mask-swap")
    rows = {key: (np.zeros((9, 9), np.uint8), size) for key, size in photographs.sizes.items()}
    write_masks(tmp_path, rows)
    with pytest.raises(UserError, match=r"0 of the images in .* a partner is another image"):
        build_loader(photographs.images, tmp_path, recipe=RECIPE, paste=swap, batch_size=2)


def test_a_large_partner_is_reduced_while_it_is_decoded(photographs, monkeypatch):
    """The same backgrounds, but for the pixels that another average takes in."""
    small = RECIPE.model_copy(update={"image_size": 30, "scale": (0.8, 1.0)})

    def backgrounds():
        loader = build_loader(
            photographs.images, photographs.masks, recipe=small, seed=SEED, batch_size=12,
            paste=PasteSettings(paste_probability=1, background="mask-swap"),
        )  # fmt: skip
        return next(iter(loader))["background"].float()

    reduced = backgrounds()
    monkeypatch.setattr("pretrain.views.swaps.reduction_for", lambda boxes, size: 1)
    difference = (backgrounds() - reduced).abs()
    assert 0 < difference.mean() < 6


def test_crops_about_the_object_by_the_loader(photographs):
    about = RECIPE.model_copy(update={"crop": "object", "crop_keeps": 0.9})
    shares = []
    for recipe in (RECIPE, about):
        loader = build_loader(
            photographs.images, photographs.masks, recipe=recipe, seed=SEED, batch_size=12,
            saliency=True,
        )  # fmt: skip
        batch, plain = next(iter(loader)), Plain(photographs, loader.keys)
        for row, index in enumerate(batch["index"].tolist()):
            mask, size = plain.mask(index), plain.image(index).shape[:2]
            for view, crop in enumerate(batch["crops"][row].tolist()):
                pixels = batch["saliency"][row, view].float().mean() * crop[2] * crop[3]
                shares.append(float(pixels) / (mask.mean() * size[0] * size[1]))
    scale, kept = np.array(shares).reshape(2, -1)
    # of these masks, a third of their images, the smallest crop could keep six tenths
    assert np.mean(scale > 0.55) < 0.9 and np.mean(kept > 0.55) == 1
