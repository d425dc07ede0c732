"""Classes are the first folders of keys; splits are none."""

import pytest

from data.images.labels import labels_from_folders, splits_of
from data.keys import Keys


def test_labels_are_the_first_folders_in_order():
    keys = Keys(["b/x/1.jpg", "a/1.jpg", "a b/2.jpg", "b/0.jpg"])
    names, labels = labels_from_folders(keys)
    assert names == ["a", "a b", "b"]
    assert {key: names[label] for key, label in zip(keys, labels, strict=True)} == {
        "b/x/1.jpg": "b",
        "a/1.jpg": "a",
        "a b/2.jpg": "a b",
        "b/0.jpg": "b",
    }


@pytest.mark.parametrize("names", [["1.jpg", "a/2.jpg"], ["a/1.jpg", "a/2.jpg"], []])
def test_no_labels_without_class_folders(names):
    assert labels_from_folders(Keys(names)) is None


@pytest.mark.parametrize("folders", [["train", "val"], ["train", "test", "validation"]])
def test_splits_are_no_classes(folders):
    keys = Keys([f"{folder}/{name}/{i}.png" for folder in folders for name in "ab" for i in "12"])
    assert labels_from_folders(keys) is None
    assert splits_of(keys) == folders
    assert splits_of(Keys(["train/1.png", "tram/1.png"])) == []
    assert labels_from_folders(Keys(["train/1.png", "tram/1.png"])).class_names == ["train", "tram"]
