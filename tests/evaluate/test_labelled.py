"""Labelled folders: splits, and one sentence for each way in which they are wrong."""

import numpy as np
import pytest

from data.errors import UserError
from evaluate.labelled import hold_out, open_labelled, open_split, stratified_subset


def test_split_by_folders(split_folder):
    split = open_split(split_folder)
    assert split.train.classes == split.val.classes == ["blue", "green", "red"]
    assert (len(split.train), len(split.val)) == (36, 15)
    assert split.train.keys[12] == "green/000.png" and split.train.labels[12] == 1
    assert split.how == "train/ and val/"


def test_split_by_holding_out(split_folder):
    split = open_split(split_folder / "train", holdout=0.25)
    assert np.bincount(split.val.labels).tolist() == [3, 3, 3]
    assert not set(split.train.keys) & set(split.val.keys)
    assert len(split.train) + len(split.val) == 36
    again = open_split(split_folder / "train", holdout=0.25)
    assert list(again.val.keys) == list(split.val.keys)


def test_hold_out_leaves_one_of_each_class():
    kept, held = hold_out(np.array([0, 0, 1, 1, 1]), 0.9, seed=0)
    assert sorted([*kept, *held]) == list(range(5))
    assert set(np.array([0, 0, 1, 1, 1])[kept]) == {0, 1}


def test_stratified_subset(split_folder):
    images = open_labelled(split_folder / "train")
    subset = stratified_subset(images, 8)
    assert sorted(np.bincount(subset.labels)) == [2, 3, 3]
    assert list(subset.keys) == sorted(subset.keys)
    assert stratified_subset(images, len(images)) is images


def test_mistakes_are_named(split_folder, write_pictures):
    picture = np.zeros((8, 8, 3), np.uint8)
    with pytest.raises(UserError, match="there is no folder"):
        open_split(split_folder / "nowhere")
    with pytest.raises(UserError, match="no class folders"):
        open_labelled(split_folder / "train" / "red")

    write_pictures(split_folder / "val", {"violet/0.png": picture})
    with pytest.raises(UserError, match=r"'violet' is in .*val and not in .*train"):
        open_split(split_folder)

    write_pictures(split_folder / "train", {"violet/0.png": picture, "stray.png": picture})
    with pytest.raises(UserError, match=r"no class folders, .*'stray.png' lies in none"):
        open_split(split_folder)
    (split_folder / "train" / "stray.png").unlink()
    with pytest.raises(UserError, match="single image"):
        open_split(split_folder / "train")
