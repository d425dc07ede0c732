"""Pooling by masks: the formula, the masks of random crops, and the probes that offer it."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
import torchvision

from data.errors import UserError
from data.images.decode import decode
from data.loading import Request, normalise
from evaluate.checkpoints import load_checkpoint
from evaluate.labelled import open_split
from evaluate.linear_training import TrainingImages
from evaluate.masks import open_masks
from evaluate.models import Backbone
from evaluate.pooling import MaskPool, masked_mean
from evaluate.protocols import Protocol

ARGUMENTS = ("--image-size", 32, "--workers", 0, "--device", "cpu", "--batch-size", 16)


def test_masked_mean_is_the_formula():
    maps, masks = torch.rand(3, 5, 2, 3), torch.rand(3, 8, 12)
    masks[1] = 0
    masks[2, :, 4:] = 0
    pooled = masked_mean(maps, masks)
    cells = masks.view(3, 2, 4, 3, 4).mean((2, 4))
    weighted = (cells[0] * maps[0]).sum((1, 2)) / cells[0].sum()
    torch.testing.assert_close(pooled[0], weighted)
    torch.testing.assert_close(pooled[1], maps[1].mean((1, 2)))  # nothing: the plain mean
    torch.testing.assert_close(masked_mean(maps, torch.ones(3, 8, 12)), maps.mean((2, 3)))
    assert not torch.allclose(pooled[2], maps[2].mean((1, 2)))


def test_penultimate_features_of_a_resnet_are_its_layer4s(resnet18_file):
    images, masks = torch.randn(2, 3, 64, 64), torch.rand(2, 64, 64)
    plain = Backbone(load_checkpoint(resnet18_file))
    pooled = Backbone(load_checkpoint(resnet18_file), pool=True)
    assert pooled.layer == "layer4"
    torch.testing.assert_close(pooled(images, torch.ones(2, 64, 64)), plain(images))
    body = torch.nn.Sequential(*list(torchvision.models.resnet18().eval().children())[:-2])
    body.load_state_dict(torch.nn.Sequential(*list(plain.model.children())[:-2]).state_dict())
    torch.testing.assert_close(pooled(images, masks), masked_mean(body(images), masks))


def test_a_network_without_a_map_is_refused():
    backbone = Backbone(load_checkpoint("random:alexnet"), pool=True)
    with pytest.raises(UserError, match=r"penultimate of alexnet is no map .* by --layer"):
        backbone.dim(64)
    assert Backbone(load_checkpoint("random:alexnet"), "features", pool=True).dim(64) == 256


@pytest.fixture
def masks(tmp_path, split_folder, write_pictures):
    """Of each picture but one its brightest half, as a picture of another resolution."""
    pictures = {}
    for path in sorted(split_folder.rglob("*.png")):
        gray = decode(str(path)).image.mean(2)[::2, ::2]
        key = path.relative_to(split_folder).as_posix()
        pictures[key] = np.where(gray > np.median(gray), 255, 0).astype(np.uint8)
    del pictures["train/red/000.png"]
    return write_pictures(tmp_path / "masks", pictures)


def test_masks_of_training_crops_are_cut_and_mirrored_alike(tmp_path, write_pictures):
    """The image is its own mask, so both must go the same way."""
    y, x = np.mgrid[:64, :96]
    ramp = (2 * x + y).astype(np.uint8)
    write_pictures(tmp_path / "images", {f"{c}/0.png": np.stack([ramp] * 3, 2) for c in "ab"})
    write_pictures(tmp_path / "masks", {f"{c}/0.png": ramp for c in "ab"})
    split = open_split(tmp_path / "images", leave_one_out="all")
    images = TrainingImages(split.train, 32, Protocol(), open_masks(tmp_path / "masks"))
    mirrored = 0
    for epoch in range(8):
        batch = images[Request(epoch, np.array([0, 1]))]
        difference = batch["image"][..., 0].int() - batch["mask"].int()
        assert difference.abs().float().mean() < 2
        mirrored += (batch["mask"][:, 0, 0] > batch["mask"][:, 0, -1]).sum().item()
        assert not batch["without_mask"]
    assert 3 < mirrored < 13
    plain = TrainingImages(split.train, 32, Protocol())[Request(7, np.array([0, 1]))]
    assert torch.equal(plain["image"], batch["image"]) and "mask" not in plain


def test_features_of_a_split_go_with_their_masks(split_folder, masks, model_of, resnet18_file):
    pool = MaskPool(open_masks(masks), split_folder)
    backbone = Backbone(load_checkpoint(resnet18_file), "layer2", pool=True)
    model = model_of(backbone, 32, batch_size=7)
    model.pool = pool
    split = open_split(split_folder)
    _, val = model.split_features(split)
    assert pool.without == {"train/red/000.png": "has no mask"}
    row = list(split.val.keys).index("green/003.png")
    batch = next(iter(model_of(backbone, 32).batches(split.val.take(np.array([row])))))
    mask = replace(pool.masks, below="val").cut("green/003.png", (40, 40), 32)
    expected = backbone(normalise(batch["image"]), torch.from_numpy(mask.copy())[None] / 255)
    torch.testing.assert_close(val.features[row], expected[0], rtol=1e-4, atol=1e-5)
    plain = model_of(Backbone(load_checkpoint(resnet18_file), "layer2"), 32).features(split.val, "")
    assert not torch.allclose(plain.features, val.features)


@pytest.mark.parametrize(
    "probe_and_options",
    [
        ("knn", "--k", 3),
        ("linear", "--fast"),
        ("linear", "--epochs", 2, "--lr", 0.1),
        ("neighbors", "--neighbors", 2, "--rows", 1, "--queries", 1),
    ],
    ids=["knn", "fast", "linear", "neighbors"],
)
def test_probes_pool_by_masks(
    tmp_path, probe, split_folder, resnet18_file, masks, probe_and_options
):
    name, *more = probe_and_options
    out = tmp_path / "out"
    arguments = (name, resnet18_file, split_folder, *ARGUMENTS, *more)
    done = probe(*arguments, "--pool", "mask", "--masks", masks, "--out", out)
    assert "averaged plainly, has no mask: train/red/000.png" in done.stderr
    assert "mask" in done.stdout
    report = json.loads((out / "results.json").read_text())
    assert report["pooled_plainly"] == {"train/red/000.png": "has no mask"}
    row = (report.get("models") or report.get("rows") or [report])[0]
    assert row["pool"] == "mask"


def test_what_does_not_go_together(tmp_path, probe, split_folder, resnet18_file, write_pictures):
    arguments = ("knn", resnet18_file, split_folder, *ARGUMENTS, "--k", 3)
    others = write_pictures(tmp_path / "others", {"x.png": np.full((9, 9), 255, np.uint8)})
    cases = {
        "--pool mask needs masks": ("--pool", "mask"),
        "is for --pool mask; add that": ("--masks", others),
        "not one of IMAGES has a mask there": ("--pool", "mask", "--masks", others),
        "holds no mask shards": ("--pool", "mask", "--masks", tmp_path / "nowhere"),
        "it should be 'plain' or 'mask'": ("--pool", "masks"),
    }
    for sentence, options in cases.items():
        result = probe(*arguments, *options, "--out", tmp_path / "out", code=2)
        assert sentence in result.stderr.splitlines()[-1], result.stderr
    assert not (tmp_path / "out").exists()
