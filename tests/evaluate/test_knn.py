"""`probe knn` through the command line."""

import json

import numpy as np
import torch
from sklearn.neighbors import KNeighborsClassifier

from evaluate.checkpoints import load_checkpoint
from evaluate.labelled import open_labelled, open_split
from evaluate.models import Backbone

ARGUMENTS = ("--image-size", 32, "--workers", 0, "--device", "cpu", "--batch-size", 16)


def test_accuracy_is_scikit_learns(tmp_path, probe, split_folder, resnet18_file, features_of):
    out = tmp_path / "out"
    result = probe(
        "knn", resnet18_file, split_folder, *ARGUMENTS, "--k", 5, "--k", 500, "--layer", "layer2",
        "--out", out,
    )  # fmt: skip
    report = json.loads((out / "results.json").read_text())
    assert [row["k"] for row in report["rows"]] == [5, 36]  # cut to the training images
    split = open_split(split_folder)
    backbone = Backbone(load_checkpoint(resnet18_file), "layer2")
    train, val = (features_of(backbone, part, 32).features for part in (split.train, split.val))
    for row in report["rows"]:
        model = KNeighborsClassifier(
            row["k"], metric="cosine", weights=lambda d: np.exp((1 - d) / 0.07)
        )
        expected = model.fit(train, split.train.labels).score(val, split.val.labels)
        assert row["top1"] == expected
        assert row["layer"] == "layer2" and row["temperature"] == 0.07
        assert f"{100 * expected:.1f} [" in result.stdout
    assert "layer2" in result.stdout and "0.07" in result.stdout


def test_class_folders_alone_are_left_out_one_by_one(
    tmp_path, probe, split_folder, resnet18_file, features_of
):
    arguments = ("knn", resnet18_file, split_folder / "val", *ARGUMENTS)
    result = probe(*arguments, "--k", 1, "--out", tmp_path / "out", "--json")
    report = json.loads(result.stdout)
    assert report["split"] == "leave one out"
    images = open_labelled(split_folder / "val")
    features = features_of(Backbone(load_checkpoint(resnet18_file)), images, 32).features
    similarity = torch.cosine_similarity(features[:, None], features[None], dim=2)
    nearest = similarity.fill_diagonal_(-2).argmax(1).numpy()
    expected = (images.labels[nearest] == images.labels).mean()
    assert report["rows"][0]["top1"] == expected


def test_trained_size_is_the_default(tmp_path, probe, split_folder, resnet18_file):
    content = {
        "format": "dilo-backbone",
        "arch": "resnet18",
        "state_dict": torch.load(resnet18_file, weights_only=True),
        "config": json.dumps({"image_size": 24}),
    }
    torch.save(content, tmp_path / "backbone.pt")
    result = probe(
        "knn", tmp_path, split_folder, "--workers", 0, "--device", "cpu", "--k", 3,
        "--out", tmp_path / "out", "--json",
    )  # fmt: skip
    assert json.loads(result.stdout)["rows"][0]["image_size"] == 24


def test_mistakes_are_one_sentence_and_leave_nothing(tmp_path, probe, split_folder, resnet18_file):
    out = tmp_path / "out"
    cases = {
        "does not exist": (tmp_path / "no.pt", split_folder),
        "there is no folder": (resnet18_file, tmp_path / "no"),
        "no class folders": (resnet18_file, split_folder / "val" / "red"),
        "two of them are called": (resnet18_file, resnet18_file, split_folder),
    }
    for sentence, arguments in cases.items():
        result = probe("knn", *arguments, *ARGUMENTS, "--out", out, code=2)
        assert sentence in result.stderr.splitlines()[-1]
    result = probe("knn", resnet18_file, split_folder, "--device", "cuda:77", code=2)
    assert "--device cuda:77" in result.stderr
    result = probe("knn", resnet18_file, split_folder, *ARGUMENTS, "--layer", "x", code=2)
    assert "--layer x" in result.stderr
    assert not out.exists() and not list(tmp_path.glob(".out*"))


def test_k_beyond_the_training_images_is_cut_and_said(tmp_path, probe, split_folder):
    result = probe(
        "knn", "random:resnet18", split_folder, "--image-size", 32, "--workers", 0, "--device",
        "cpu", "--k", 5, "--k", 500, "--out", tmp_path / "out",
    )  # fmt: skip
    assert "--k 500 is cut to 36" in result.stderr
    rows = json.loads((tmp_path / "out" / "results.json").read_text())["rows"]
    assert [row["k"] for row in rows] == [5, 36]
