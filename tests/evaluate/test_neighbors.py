"""`probe neighbors`: whose neighbours, in which order, in which colours."""

import json

import cv2
import numpy as np
import torch

from evaluate.checkpoints import load_checkpoint
from evaluate.labelled import open_split
from evaluate.models import Backbone

ARGUMENTS = ("--image-size", 32, "--workers", 0, "--device", "cpu", "--batch-size", 16)


def test_command(tmp_path, probe, split_folder, resnet18_file, features_of):
    out = tmp_path / "out"
    result = probe(
        "neighbors", f"one={resnet18_file}", "random:resnet18", split_folder, *ARGUMENTS,
        "--neighbors", 3, "--out", out,
    )  # fmt: skip
    report = json.loads((out / "results.json").read_text())
    assert report["queries"] == 15 and report["candidates"] == 36
    assert len(report["rows"]) == 15

    spread = [
        abs(sum(row["right"]["one"]) - sum(row["right"]["random:resnet18"]))
        for row in report["rows"]
    ]
    assert spread == sorted(spread, reverse=True)

    # the neighbours of one query, computed plainly
    split = open_split(split_folder)
    backbone = Backbone(load_checkpoint(resnet18_file))
    train, val = (features_of(backbone, part, 32).features for part in (split.train, split.val))
    row = report["rows"][0]
    query = list(split.val.keys).index(row["query"])
    best = torch.cosine_similarity(val[query : query + 1], train).argsort(descending=True)[:3]
    assert row["neighbors"]["one"] == [split.train.keys[int(i)] for i in best]
    assert row["right"]["one"] == [
        split.train.classes[split.train.labels[int(i)]] == row["label"] for i in best
    ]

    page = (out / "index.html").read_text()
    right = sum(sum(r) for row in report["rows"] for r in row["right"].values())
    assert page.count('class="right"') == right
    assert page.count('class="wrong"') == 15 * 2 * 3 - right
    assert cv2.imread(str(out / "neighbors.png")).size
    shares = [sum(row["right"]["one"]) / 3 for row in report["rows"]]
    assert f"{100 * np.mean(shares):.1f} [" in result.stdout


def test_class_folders_alone_are_their_own_candidates(tmp_path, probe, split_folder, resnet18_file):
    (split_folder / "val" / "red" / "004.png").write_bytes(b"broken")
    out = tmp_path / "out"
    result = probe(
        "neighbors", resnet18_file, split_folder / "val", *ARGUMENTS, "--neighbors", 2,
        "--queries", 4, "--out", out,
    )  # fmt: skip
    assert "red/004.png" in result.stderr
    report = json.loads((out / "results.json").read_text())
    assert len(report["rows"]) == 4 and report["queries"] == 14
    for row in report["rows"]:
        assert row["query"] not in row["neighbors"]["resnet18.pt"]


def test_few_candidates_are_readable(tmp_path, probe, split_folder):
    for path in list((split_folder / "train").glob("*/*.png"))[4:]:
        path.write_bytes(b"")
    arguments = ("--image-size", 32, "--workers", 0, "--device", "cpu", "--out", tmp_path / "out")
    result = probe("neighbors", "random:resnet18", split_folder, *arguments)
    assert "--neighbors 5 is cut to 4" in result.stderr
    report = json.loads((tmp_path / "out" / "results.json").read_text())
    assert len(report["unreadable"]) == 32
