"""`probe foreground` on networks that see the object alone, the background alone, or colours."""

import json

import cv2
import numpy as np
import pytest
import torch
from torch import nn

from evaluate.checkpoints import Checkpoint, Source
from evaluate.foreground import Composites, Options, _features
from evaluate.labelled import open_any
from evaluate.models import Backbone, with_untrained
from evaluate.two_way import measure

SIDE, COUNT = 16, 12
INSIDE = (slice(4, 12), slice(4, 12))


class Seen(nn.Module):
    """The mean colour, inside the square, outside of it, or everywhere."""

    def __init__(self, part: str):
        super().__init__()
        inside = torch.zeros(SIDE, SIDE)
        inside[INSIDE] = 1
        self.mask = {"inside": inside, "outside": 1 - inside, "all": torch.ones(SIDE, SIDE)}[part]
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, images):
        return self.scale * (images * self.mask).sum((2, 3)) / self.mask.sum()


@pytest.fixture
def composites():
    """Squares of one colour each on backgrounds of one colour each, drawn from the same colours."""
    rng = np.random.default_rng(0)
    colours, masks = rng.integers(0, 256, (2 * COUNT, 3), np.uint8), np.zeros((COUNT, SIDE, SIDE))
    masks[(slice(None), *INSIDE)] = 1
    plain = np.broadcast_to(colours[:, None, None], (2 * COUNT, SIDE, SIDE, 3))
    return Composites(plain[:COUNT], masks > 0, plain[COUNT:], [], [])


def grid_of(part, composites, model_of):
    backbone = Backbone(Checkpoint(Seen(part), Source(part, arch="resnet18")))
    return measure(_features(model_of(backbone, SIDE), composites))


def test_networks_whose_answer_is_known(composites, model_of):
    inside, outside = (grid_of(part, composites, model_of) for part in ("inside", "outside"))
    for name, of_inside in (("object", 1), ("background", 0), ("abx", 1), ("swap", 1)):
        assert inside.value[name] == pytest.approx(of_inside, abs=1e-6)
        assert outside.value[name] == pytest.approx(1 - of_inside, abs=1e-6)
        assert inside.estimate(name).low == pytest.approx(of_inside, abs=1e-6)
    # a quarter of the pixels is the object: of squared changes 1 against 9, before the unit length
    mean = grid_of("all", composites, model_of)
    assert mean.value["background"] > 5 * mean.value["object"] > 0
    assert mean.estimate("abx").high < 0.5
    assert inside.difference(mean, "abx").low > 0


def test_every_object_lies_on_every_background(composites):
    picture = composites.picture(3, 5)
    assert (picture[INSIDE] == composites.images[3][0, 0]).all()
    assert (picture[~composites.masks[3]] == composites.backgrounds[5][0, 0]).all()


def test_one_untrained_network_of_each_kind_is_added(model_of, resnet18_file, colour_backbone):
    backbone = Backbone(Checkpoint(Seen("all"), Source("run", arch="resnet18")))
    models = [model_of(backbone), model_of(backbone)]
    added = with_untrained(models)
    assert [m.label for m in added] == ["model", "model", "untrained"]
    assert added[-1].backbone.source.checkpoint == "random:resnet18"
    assert with_untrained(added) == added


@pytest.fixture
def masks(tmp_path, split_folder, write_pictures):
    """Masks of the validation images; one is empty."""
    square = np.zeros((40, 40), np.uint8)
    square[10:30, 10:30] = 255
    paths = sorted((split_folder / "val").glob("*/*.png"))
    found = {f"{path.parent.name}/{path.name}": square for path in paths}
    return write_pictures(tmp_path / "masks", {**found, "red/000.png": 0 * square})


ARGUMENTS = ("--image-size", 32, "--workers", 0, "--device", "cpu")


def test_command(tmp_path, probe, split_folder, masks, resnet18_file):
    out = tmp_path / "out"
    result = probe(
        "foreground", f"one={resnet18_file}", split_folder, "--masks", masks, *ARGUMENTS,
        "--out", out,
    )  # fmt: skip
    report = json.loads((out / "results.json").read_text())
    assert [row["label"] for row in report["rows"]] == ["one", "untrained"]
    assert len(report["objects"]) == len(report["backgrounds"]) == 7
    assert not set(report["objects"]) & set(report["backgrounds"])
    assert report["left_out"].keys() == {"red/000.png"}
    for row in report["rows"]:
        assert sum(row[n]["value"] for n in ("object", "background", "interaction")) == (
            pytest.approx(1)
        )
        assert row["abx"]["low"] <= row["abx"]["value"] <= row["abx"]["high"]
    # both are random: no more may be said of one than of the other
    assert "one is not above the untrained network" in result.stdout
    assert "looks at the object more" not in result.stdout
    assert "--grid 64 is cut to 7" in result.stderr
    for name in ("fractions.png", "grid.png", "foreground.png"):
        assert cv2.imread(str(out / name)).size
    page = (out / "index.html").read_text()
    assert page.count("<figure") == 7 * 3 and "http" not in page


def test_any_folder_will_do(tmp_path, split_folder):
    images, folder = open_any(split_folder)
    assert (len(images), folder) == (15, "val")
    images, folder = open_any(split_folder / "val" / "red")
    assert (len(images), folder) == (5, "")


def test_mistakes(tmp_path, probe, split_folder, write_pictures, resnet18_file):
    few = write_pictures(tmp_path / "few", {"red/000.png": np.eye(40, dtype=np.uint8) * 255})
    arguments = ("foreground", resnet18_file, split_folder, *ARGUMENTS, "--out", tmp_path / "out")
    assert "--masks is missing" in probe(*arguments, code=2).stderr
    assert "are needed" in probe(*arguments, "--masks", few, code=2).stderr
    assert Options.model_fields["grid"].default == 64
