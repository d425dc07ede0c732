"""`probe robustness`: which mask and which background an image gets, and the command."""

import json

import cv2
import numpy as np
import pytest

from data.errors import UserError
from data.images.crop import centre_crop
from evaluate.labelled import open_labelled
from evaluate.masks import crop_mask, open_masks
from evaluate.robustness import _figures, imagenet9_variants
from evaluate.variants import (
    VARIANTS,
    VariantImages,
    alone,
    check_classes_left,
    donors,
    mixed,
    tile_box,
    usable,
)


@pytest.mark.parametrize("shape", [(40, 40), (60, 41), (34, 80)])
@pytest.mark.parametrize("scale", [1, 0.5])
def test_mask_is_cropped_like_its_image(shape, scale):
    y, x = np.mgrid[: shape[0], : shape[1]]
    smooth = (127 + 60 * np.sin(y / 7) + 60 * np.cos(x / 9)).clip(0, 255).astype(np.uint8)
    mask = cv2.resize(smooth, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    image = centre_crop(np.repeat(smooth[..., None], 3, axis=2), 32)[..., 0]
    cropped = crop_mask(mask, shape, 32)
    assert cropped.shape == (32, 32)
    assert np.abs(cropped.astype(int) - image).mean() < 3


def test_donors():
    labels = np.repeat([0, 1, 2], 40)
    several = donors(labels, 3, count=4)
    found = {name: rows[:, 0] for name, rows in donors(labels, 3).items()}
    assert all((several[name][:, 0] == found[name]).all() for name in found)
    assert all(len({*row}) > 1 for row in several["mixed_same"][:5].tolist())
    assert (labels[several["mixed_next"]] == (labels[:, None] + 1) % 3).all()
    rows = np.arange(len(labels))
    assert (labels[found["mixed_same"]] == labels).all()
    assert (labels[found["mixed_next"]] == (labels + 1) % 3).all()
    shares = np.bincount(labels[found["mixed_rand"]], minlength=3) / len(labels)
    assert (shares > 0.2).all()  # all classes come up, the own one too
    assert any(labels[found["mixed_rand"]] == labels)
    for name in found:
        assert (found[name] != rows).all()
        assert (donors(labels, 3)[name][:, 0] == found[name]).all()
    assert (donors(labels, 3, seed=1)["mixed_same"][:, 0] != found["mixed_same"]).any()


@pytest.fixture
def with_masks(tmp_path, split_folder, write_pictures):
    """Masks of the validation images, with the square foreground of `write_labelled`."""
    masks = {}
    for path in sorted((split_folder / "val").glob("*/*.png")):
        mask = np.zeros((40, 40), np.uint8)
        mask[10:30, 10:30] = 255
        masks[f"val/{path.parent.name}/{path.name}"] = mask
    return write_pictures(tmp_path / "masks", masks)


def test_variants_are_made_of_crops_and_donors(split_folder, with_masks):
    images = open_labelled(split_folder / "val")
    crops, left_out = usable(images, open_masks(with_masks, below="val"), 32)
    assert not left_out
    made = VariantImages(crops, count=2)
    row, variants = made[4]
    assert row == 4 and tuple(variants) == VARIANTS
    image, mask = crops.crop(4)
    assert mask.sum() == pytest.approx((20 * 37 / 40) ** 2, rel=0.1)
    for name, picture in alone(image, mask).items():
        assert (variants[name] == picture[None]).all()
    for donor, picture in zip(made.donors["mixed_next"][4], variants["mixed_next"], strict=True):
        assert (picture == mixed(image, mask, tile_box(*crops.crop(donor)))).all()


def test_masks_are_found_for_either_root(split_folder, with_masks):
    key = "red/000.png"
    assert open_masks(with_masks, below="val").find(key) == "val/red/000"
    assert open_masks(with_masks / "val", below="val").find(key) == "red/000"
    assert open_masks(with_masks).find(key) is None


def test_images_without_foreground_or_background_are_left_out(
    split_folder, with_masks, write_pictures
):
    write_pictures(
        with_masks / "val" / "red",
        {"000.png": np.zeros((40, 40), np.uint8), "001.png": np.full((40, 40), 255, np.uint8)},
    )
    (with_masks / "val" / "blue" / "002.png").unlink()
    images = open_labelled(split_folder / "val")
    _, left_out = usable(images, open_masks(with_masks, below="val"), 32)
    assert left_out.keys() == {"blue/002.png", "red/000.png", "red/001.png"}
    assert "empty mask" in left_out["red/000.png"]
    assert "covers over 90%" in left_out["red/001.png"]
    assert left_out["blue/002.png"] == "has no mask"
    for number in range(1, 5):
        write_pictures(
            with_masks / "val" / "red", {f"{number:03d}.png": np.zeros((40, 40), np.uint8)}
        )
    crops, left_out = usable(images, open_masks(with_masks, below="val"), 32)
    with pytest.raises(UserError, match="'red' has 0 images with a usable mask"):
        check_classes_left(crops, left_out)


ARGUMENTS = ("--image-size", 32, "--workers", 0, "--device", "cpu", "--batch-size", 16)


def save_variants(images, folder):
    """Write the pictures of the first donors in ImageNet-9's layout."""
    for row, variants in (images[number] for number in range(len(images))):
        for name, pictures in variants.items():
            path = folder / name / "val" / images.crops.images.keys[row]
            path.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(path), pictures[0][..., ::-1])


def test_command_then_its_own_pictures_give_the_same(
    tmp_path, probe, split_folder, with_masks, resnet18_file
):
    out, saved = tmp_path / "out", tmp_path / "variants"
    result = probe(
        "robustness", resnet18_file, "again=random:resnet18", split_folder, *ARGUMENTS,
        "--masks", with_masks, "--out", out, "--donors", 1,
    )  # fmt: skip
    report = json.loads((out / "results.json").read_text())
    first, second = report["rows"]
    assert second["label"] == "again"
    assert tuple(first["accuracy"]) == VARIANTS
    gap = first["accuracy"]["mixed_same"] - first["accuracy"]["mixed_rand"]
    assert first["background_gap"] == pytest.approx(gap)
    low, high = first["background_gap_interval"]
    assert low <= gap <= high
    assert first["accuracy"]["original"] > 0.5
    assert "mixed_rand" in result.stdout and "gap" in result.stdout
    for name in ("accuracies.png", "variants.png"):
        assert cv2.imread(str(out / name)).size

    images = open_labelled(split_folder / "val")
    crops, _ = usable(images, open_masks(with_masks, below="val"), 32)
    save_variants(VariantImages(crops), saved)
    assert imagenet9_variants(saved) == VARIANTS
    assert "--train" in probe("robustness", resnet18_file, saved, *ARGUMENTS, code=2).stderr
    again = probe(
        "robustness", resnet18_file, saved, *ARGUMENTS, "--train", split_folder / "train",
        "--out", tmp_path / "again", "--json",
    )  # fmt: skip
    same = json.loads(again.stdout)["rows"][0]
    assert same["accuracy"] == pytest.approx(first["accuracy"])
    assert same["background_gap_interval"] == pytest.approx(first["background_gap_interval"])


def test_accuracies_are_means_over_donors():
    """Two donors of three images: the gap is of each image's means."""
    same, rand = np.array([[1, 1], [1, 0], [0, 0]]) > 0, np.array([[1, 0], [0, 0], [0, 0]]) > 0
    figures = _figures({"mixed_same": same, "mixed_rand": rand}, paired=True)
    assert figures["accuracy"] == pytest.approx({"mixed_same": 1 / 2, "mixed_rand": 1 / 6})
    assert figures["background_gap"] == pytest.approx(1 / 3)
    paired = figures["background_gap_interval"]
    apart = _figures({"mixed_same": same, "mixed_rand": rand}, False)["background_gap_interval"]
    assert paired[1] - paired[0] < apart[1] - apart[0]


def test_checkpoints_of_one_recipe_are_averaged(
    tmp_path, probe, split_folder, with_masks, resnet18_file
):
    result = probe(
        "robustness", f"a={resnet18_file}", "a=random:resnet18", split_folder, *ARGUMENTS,
        "--masks", with_masks, "--donors", 2, "--out", tmp_path / "out",
    )  # fmt: skip
    report = json.loads((tmp_path / "out" / "results.json").read_text())
    gaps = [row["background_gap"] for row in report["rows"]]
    assert [row["label"] for row in report["rows"]] == ["a 1", "a 2"]
    (mean,) = report["means"]
    assert mean["recipe"] == "a" and mean["gap %"] == pytest.approx(np.mean(gaps))
    assert mean["gap %, standard error"] == pytest.approx(abs(gaps[0] - gaps[1]) / 2)
    assert "a: mean of 2" in result.stdout and "±" in result.stdout


def test_knn_classifier_without_truncated_images(
    tmp_path, probe, split_folder, with_masks, resnet18_file
):
    path = split_folder / "val" / "red" / "002.png"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    result = probe(
        "robustness", resnet18_file, split_folder, *ARGUMENTS, "--masks", with_masks,
        "--classifier", "knn", "--donors", 2, "--out", tmp_path / "out", "--json",
    )  # fmt: skip
    report = json.loads(result.stdout)
    assert "cannot be read" in report["left_out"]["red/002.png"]
    (row,) = report["rows"]
    assert row["classifier"] == {"kind": "knn", "k": 36, "temperature": 0.07}


def test_mistakes(tmp_path, probe, split_folder, with_masks, resnet18_file):
    arguments = ("robustness", resnet18_file, split_folder, *ARGUMENTS, "--out", tmp_path / "out")
    assert "--masks is needed" in probe(*arguments, code=2).stderr
    assert "there is no folder" in probe(*arguments, "--masks", tmp_path / "no", code=2).stderr
    assert not (tmp_path / "out").exists() and not list(tmp_path.glob(".out*"))
    for variant in ("original", "mixed_same"):
        (tmp_path / "nine" / variant / "val").mkdir(parents=True)
    given = ("robustness", resnet18_file, tmp_path / "nine", "--masks", with_masks)
    assert "leave --masks out" in probe(*given, code=2).stderr
