"""A CoDo-like run, two steps long, is asked where the objects of drawn pictures are."""

import re

import numpy as np
import torch
from click.testing import CliRunner
from PIL import Image

from benchmarks.locate import candidates, main
from data.cli import main as mask_shards
from demo.scenes import write_scenes
from pretrain.cli import main as pretrain
from pretrain.parts.boxes import overlap


def test_candidates_lie_in_the_view_and_some_on_the_object():
    true = torch.tensor([[10.0, 12, 30, 20], [0, 0, 64, 64]])
    tried = candidates(true, 64, 200, step=3)
    assert tried.shape == (2, 200, 4) and (tried[..., :2] >= 0).all() and (tried[..., 2:] > 0).all()
    assert (tried[..., :2] + tried[..., 2:] <= 64).all()
    found = overlap(tried, true[:, None])
    assert found[0].max() > 0.6 and found[0].min() < 0.1
    torch.testing.assert_close(tried, candidates(true, 64, 200, step=3), rtol=0, atol=0)


def test_table_and_picture(tmp_path):
    write_scenes(tmp_path / "images", tmp_path / "truth", 16, 16, ("shared", "shared"))
    images, masks, run = tmp_path / "images" / "train", tmp_path / "masks", tmp_path / "run"
    steps = [
        (mask_shards, ["import", tmp_path / "truth" / "train", masks, "--images", images,
                       "--method", "truth"]),
        (pretrain, [images, "--masks", masks, "--method", "codo", "--arch", "resnet18",
                    "--image-size", 32, "--batch-size", 8, "--epochs", 1, "--workers", 0,
                    "--device", "cpu", "--out", run, "--set", "negatives=8",
                    "--set", "lowest_level=5", "--set", "knn_every=0"]),
        (main, [run, run, images, masks, "--count", 8, "--limit", 16,
                "--picture", tmp_path / "located.png"]),
    ]  # fmt: skip
    for command, arguments in steps:
        done = CliRunner().invoke(command, list(map(str, arguments)))
        assert done.exit_code == 0, done.output
    lines = done.output.splitlines()
    assert [line.split(": IoU")[0] for line in lines[:4]] == [
        f"{run}, {name}" for _ in range(2) for name in ("untrained", "trained")
    ]
    for line in lines[:4]:
        chosen, chance, best = map(float, re.findall(r"\d\.\d+", line.partition(": IoU")[2]))
        assert 0 <= chosen <= best <= 1 and 0 <= chance <= best
    assert lines[4].startswith("untrained: ") and "± 0.000" in lines[4]
    picture = np.asarray(Image.open(tmp_path / "located.png"))
    assert (picture == (255, 140, 0)).all(2).sum() > 500  # the chosen boxes
