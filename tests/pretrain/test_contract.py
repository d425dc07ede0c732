"""`Views`: what a method sees, against what the loader and the augmentation did."""

import numpy as np
import pytest
import torch

from data.errors import UserError
from data.images.crop import box_within, sample_box
from data.masks.read import MaskShards
from pretrain.contract import OPTIONAL
from pretrain.views.augment import DeviceAugment
from pretrain.views.draws import COLUMN
from pretrain.views.loader import build_loader
from pretrain.views.recipes import PasteSettings, ViewRecipe

SIZE = 32
RECIPE = ViewRecipe(views=2, image_size=SIZE, flip=0.5, jitter=0, gray=0)


def load(photographs, paste, **options):
    loader = build_loader(
        photographs.images, photographs.masks, recipe=RECIPE, paste=paste, batch_size=6, seed=3,
        **options,
    )  # fmt: skip
    batch = next(iter(loader))
    return (
        batch,
        DeviceAugment(RECIPE).views(batch, torch.arange(6), OPTIONAL - {"negative"}),
        loader.keys,
    )


@pytest.mark.parametrize("paste", [PasteSettings(blend="gaussian"), None])
def test_saliency_is_the_true_mask_cut_and_flipped_with_its_view(photographs, paste):
    batch, views, keys = load(photographs, paste, saliency=True)
    shards = MaskShards(photographs.masks)
    pasted = batch["parameters"][..., COLUMN["paste"]] > 0
    assert (paste is None) or 0 < pasted.sum() < pasted.numel()
    for row, index in enumerate(views.index.tolist()):
        key = keys[index]
        mask = shards.read(list(shards.keys).index(key))
        for view in range(2):
            box = views.crops[row, view].tolist()
            inside = box_within((0, 0, *mask.shape), box, photographs.sizes[key])
            expected = torch.from_numpy(np.ascontiguousarray(sample_box(mask, inside, (SIZE,) * 2)))
            if batch["parameters"][row, view, COLUMN["flip"]]:
                expected = expected.flip(-1)
            saliency = views.saliency[view][row, 0]
            torch.testing.assert_close(saliency, expected / 255)
            alpha = views.alpha[view][row, 0]
            assert bool((alpha == 1).all()) == (not pasted[row, view])
            top, left, height, width = views.boxes[row, view].int().tolist()
            whole = saliency > 0.5
            assert whole[top : top + height, left : left + width].sum() == whole.sum()


def test_what_nobody_wants_is_not_made(photographs):
    loader = build_loader(photographs.images, recipe=RECIPE, batch_size=6)
    batch = next(iter(loader))
    views = DeviceAugment(RECIPE).views(batch, torch.arange(6))
    assert "saliency" not in batch
    assert views.saliency is views.alpha is views.boxes is None
    assert all(map(torch.equal, views.images, DeviceAugment(RECIPE)(batch)))


def test_saliency_moves_no_draw(photographs):
    paste = PasteSettings()
    batch, views, _ = load(photographs, paste, saliency=True)
    loader = build_loader(
        photographs.images, photographs.masks, recipe=RECIPE, paste=paste, batch_size=6, seed=3
    )
    plain = next(iter(loader))
    assert torch.equal(plain["parameters"], batch["parameters"])
    assert all(map(torch.equal, views.images, DeviceAugment(RECIPE)(plain)))


def test_decoding_on_the_device_gives_the_same(photographs):
    paste = PasteSettings()
    _, here, _ = load(photographs, paste, saliency=True)
    _, there, _ = load(photographs, paste, saliency=True, decode_on=torch.device("cpu"))
    for name in ("index", "rows", "crops", "boxes"):
        assert torch.equal(getattr(here, name), getattr(there, name))
    for name in ("saliency", "alpha"):
        assert all(map(torch.equal, getattr(here, name), getattr(there, name)))


def test_saliency_needs_masks(photographs):
    with pytest.raises(UserError, match="needs masks; give the folder of the mask shards"):
        build_loader(photographs.images, recipe=RECIPE, batch_size=6, saliency=True)


def test_parts_of_a_batch(photographs):
    _, views, _ = load(photographs, PasteSettings(), saliency=True)
    parts = views.chunk(3)
    assert [len(part.index) for part in parts] == [2, 2, 2]
    for name in ("index", "rows", "crops", "boxes"):
        together = torch.cat([getattr(part, name) for part in parts])
        assert torch.equal(together, getattr(views, name))
    for view in range(2):
        assert torch.equal(torch.cat([p.saliency[view] for p in parts]), views.saliency[view])
