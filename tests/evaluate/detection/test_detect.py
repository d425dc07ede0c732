"""Fine-tuning from end to end: resume, failures, processes, results."""

import json
import os
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from data.errors import RunFailed, UserError
from data.loading import Request
from data.metrics import read_metrics
from data.run import Run
from evaluate.checkpoints import load_checkpoint
from evaluate.detection.coco import read_coco
from evaluate.detection.dataset import EvaluationImages, TrainingImages, resized_shape, trainable
from evaluate.detection.detectors import build_detector
from evaluate.detection.settings import build_settings
from evaluate.detection.train import Trainer, build_optimizer, measure_norms, rate_of
from evaluate.detection.voc import read_voc
from pretrain.parts.distributed import World

ONE = World(0, 1, 0, 1, torch.device("cpu"))
TINY = (
    *("images_per_step=2", "steps=6", "warmup_steps=2", "milestones=[4]", "train_sides=[32,48]"),
    *("test_side=32", "anchors=[8,16,24,32,48]", "proposals_train=20", "proposals_test=10"),
    *("regions=8", "precise_bn=2", "pooled=4", "lr=0.01"),
)
SET = [word for text in TINY for word in ("--set", text)]


# ---- images --------------------------------------------------------------------------------------


def test_shapes_are_detectron2s():
    """Its ResizeShortestEdge: 500 x 375 to 800 is 1067 x 800; a panorama is held to 1333."""
    assert resized_shape((375, 500), 800, 1333) == (800, 1067)
    assert resized_shape((500, 375), 480, 1333) == (640, 480)
    assert resized_shape((200, 1000), 800, 1333) == (267, 1333)


def test_images_are_resized_by_pillow_and_boxes_follow(voc):
    images, settings = read_voc(voc, ("2007",), "trainval"), build_settings("voc07", TINY)
    data = TrainingImages(images, settings, seed=3)
    flips, sides = set(), set()
    for epoch in range(6):
        ((pixels, target),) = data[Request(epoch, np.array([1]))]
        height, width = pixels.shape[1:]
        plain = Image.open(images.paths[1]).resize((width, height), Image.Resampling.BILINEAR)
        plain = torch.from_numpy(np.array(plain)).permute(2, 0, 1)
        boxes = torch.tensor(images.objects[1].boxes)
        boxes *= torch.tensor([width / 64, height / 48] * 2)
        flipped = not torch.equal(pixels, plain)
        if flipped:
            assert torch.equal(pixels, plain.flip(2))
            boxes[:, [0, 2]] = width - boxes[:, [2, 0]]
        torch.testing.assert_close(target["boxes"], boxes.float())
        flips.add(flipped)
        sides.add(height)
    assert flips == {True, False} and sides == {32, 48}
    again = TrainingImages(images, settings, seed=3)[Request(5, np.array([1]))]
    assert torch.equal(again[0][0], pixels)
    assert EvaluationImages(images, settings)[[1]][0].shape == (3, 32, 43)


def test_masks_follow_their_boxes(coco):
    pytest.importorskip("pycocotools")
    images, settings = read_coco(coco, "train2017"), build_settings("coco-1x", TINY)
    for row in range(len(images)):
        ((_, target),) = TrainingImages(images, settings, 0)[Request(row, np.array([row]))]
        assert len(target["masks"]) == len(target["boxes"]) == (~images.objects[row].ignored).sum()
        for mask, (x1, y1, x2, y2) in zip(target["masks"], target["boxes"].tolist(), strict=True):
            ys, xs = torch.nonzero(mask, as_tuple=True)
            extent = [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]
            assert np.allclose(extent, (x1, y1, x2, y2), atol=1.01)


def test_an_image_of_another_size_is_refused(voc):
    images = read_voc(voc, ("2007",), "test")
    images.sizes[0] = (64, 48)
    with pytest.raises(UserError, match=r"t00000.jpg has 64 x 48 pixels, and its annotation says"):
        EvaluationImages(images, build_settings("voc07", TINY))[[0]]


# ---- training ------------------------------------------------------------------------------------


def test_the_rate_by_hand():
    settings = build_settings("voc0712", [])
    rates = [rate_of(settings, step) for step in (0, 50, 100, 17999, 18000, 22000)]
    assert rates == pytest.approx([2e-5, 0.02 * (0.001 + 0.999 / 2), 0.02, 0.02, 0.002, 0.0002])


def test_norms_do_not_decay():
    model = build_detector(load_checkpoint("random:resnet18"), 20, build_settings("voc07", TINY), 0)
    decayed, kept = (
        group["params"]
        for group in build_optimizer(model, build_settings("voc07", [])).param_groups
    )
    norms = {
        id(p) for m in model.modules() if isinstance(m, nn.BatchNorm2d) for p in m.parameters()
    }
    assert {id(p) for p in kept} == norms and not norms & {id(p) for p in decayed}
    assert len(decayed) + len(kept) == len(list(model.parameters()))


def test_precise_statistics_are_the_means_over_batches():
    model = nn.Sequential(nn.BatchNorm1d(3), nn.Dropout()).eval()
    batches = [torch.randn(8, 3) * (n + 1) for n in range(4)]
    weight = model[0].weight.clone()
    measure_norms(model, batches, model)
    torch.testing.assert_close(model[0].running_mean, torch.stack(batches).mean(1).mean(0))
    torch.testing.assert_close(
        model[0].running_var, torch.stack([b.var(0) for b in batches]).mean(0)
    )
    assert not model.training and model[0].momentum == 0.1 and torch.equal(model[0].weight, weight)


def trainer(folder, voc, workers=0, assignments=TINY):
    settings = build_settings("voc07", assignments)
    model = build_detector(load_checkpoint("random:resnet18"), 20, settings, 1)
    images, run = read_voc(voc, ("2007",), "trainval"), Run(folder)
    run.start({"seed": 1})
    return Trainer(model, images, settings, 1, run, ONE, None, workers)


def test_resume_is_exact(tmp_path, voc, monkeypatch):
    whole = trainer(tmp_path / "whole", voc)
    whole.train("whole")
    whole.measure_norms()
    parts = trainer(tmp_path / "parts", voc)
    stopped = parts._train_on

    def stop_in_the_middle(*arguments):
        if parts.step == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return stopped(*arguments)

    monkeypatch.setattr(parts, "_train_on", stop_in_the_middle)
    assert parts.train("parts").exit_code == 0 and parts.step == 3
    resumed = trainer(tmp_path / "parts", voc, workers=2)
    resumed.resume()
    assert resumed.step == 3
    resumed.train("parts")
    resumed.measure_norms()
    resumed.loader.close()
    lines = [read_metrics(tmp_path / name / "metrics.jsonl") for name in ("whole", "parts")]
    losses = [[line["loss"] for line in each] for each in lines]
    assert losses[0] == losses[1] and len(losses[0]) == 6
    ours, theirs = whole.model.state_dict(), resumed.model.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert lines[0][0]["loss_rpn_box_reg"] > 0


def test_a_loss_that_is_not_finite_is_told(tmp_path, voc):
    broken = trainer(tmp_path / "run", voc, assignments=(*TINY, "lr=1e30", "warmup_steps=0"))
    with pytest.raises(RunFailed, match="lower rate than 1e\\+30"):
        broken.train("broken")


def test_more_images_a_step_than_there_are(tmp_path, voc):
    with pytest.raises(UserError, match=r"images_per_step is 9; .* at most the 8 images"):
        trainer(tmp_path, voc, assignments=(*TINY, "images_per_step=9"))


def test_images_without_objects_are_not_trained_on(coco):
    images = read_coco(coco, "train2017")
    images.objects[3].ignored[:] = True
    assert trainable(images).names == [n for row, n in enumerate(images.names) if row != 3]


# ---- the command ---------------------------------------------------------------------------------


def test_voc_from_end_to_end(probe, voc, tmp_path):
    out, common = tmp_path / "out", ("--workers", 0, "--device", "cpu", *SET, "--set", "steps=3")
    networks = ("a=random:resnet18", "a=random:resnet18#1", "b=random:resnet18")
    command = ("detect", *networks, voc, "--runs", 2, *common)
    done = probe(*command, "--out", out)
    assert "AP50 %" in done.stdout and "±" in done.stdout and "linear rule" in done.stdout
    content = json.loads((out / "results.json").read_text())
    assert [len(row["runs"]) for row in content["rows"]] == [2, 2, 2]
    row, second, _ = content["rows"]
    assert row["mean"]["ap50"] == pytest.approx(np.mean([run["ap50"] for run in row["runs"]]))
    pair, (mean,) = [100 * each["mean"]["ap50"] for each in (row, second)], content["means"]
    assert mean["recipe"] == "a" and mean["checkpoints"] == 2
    assert 100 * mean["AP50 %"] == pytest.approx(np.mean(pair))
    assert 100 * mean["AP50 %, standard error"] == pytest.approx(abs(pair[0] - pair[1]) / 2)
    assert "a: mean of 2" in done.stdout
    assert content["settings"]["steps"] == 3
    assert len(list((out / "training").iterdir())) == 4  # of b those of a's first
    page = (out / "index.html").read_text()
    assert page.count("<figure") == 4 * 4 and "Precision over recall" in page
    assert (out / "detect.png").is_file()

    # finished trainings are not done again
    answers = next((out / "training").glob("*-seed-0")) / "detections.json"
    before = answers.stat().st_mtime_ns
    probe(*command, "--out", out, "--overwrite")
    assert answers.stat().st_mtime_ns == before
    refused = probe(*command, "--set", "regions=7", "--out", out, "--overwrite", code=2)
    assert "has settings.regions = 8, not 7" in refused.stderr


def test_coco_from_end_to_end(probe, coco, tmp_path):
    pytest.importorskip("pycocotools")
    out = tmp_path / "out"
    probe("detect", "random:resnet18", coco, "--protocol", "coco-1x", "--workers", 0, "--device",
          "cpu", *SET, "--set", "steps=3", "--out", out)  # fmt: skip
    averages = json.loads((out / "results.json").read_text())["rows"][0]["mean"]
    assert {"ap", "ap50", "ap75", "mask_ap", "mask_ap50", "mask_ap75"} <= averages.keys()


def test_what_cannot_be_is_told(probe, voc, coco, tmp_path, monkeypatch):
    for arguments, sentence in (
        (("random:alexnet", voc), "detectors are built on ResNets"),
        (("random:resnet18", tmp_path), "has no VOC2007/ImageSets/Main/trainval.txt"),
        (("random:resnet18", voc, "--set", "detector=fpn"), "needs masks"),
        (("random:resnet18", voc, "--set", "lr=-1"), "the setting lr is -1"),
        (("random:resnet18", voc, "--protocol", "voc10"), "choose one of voc07"),
        (("random:resnet18", "random:resnet18", voc), "two of them are called"),
    ):
        out = tmp_path / "out"
        told = probe("detect", *arguments, "--device", "cpu", "--out", out, code=2).stderr
        assert sentence in told and not (out / "results.json").exists()
    monkeypatch.setitem(sys.modules, "pycocotools", None)
    told = probe("detect", "random:resnet18", coco, "--protocol", "coco-1x", code=2).stderr
    assert "pip install 'dilo[detection]'" in told


def test_two_processes(voc, tmp_path):
    """One writes; each tests its share of the images, and all answers are there."""
    out = tmp_path / "out"
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m",
               "evaluate", "detect", "random:resnet18", str(voc), "--device", "cpu", "--workers",
               "0", "--out", str(out), *SET, "--set", "steps=2"]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("AP50 %") == 1 and "batch norm over 1 images" in done.stdout
    (training,) = (out / "training").iterdir()
    assert len(read_metrics(training / "metrics.jsonl")) == 2
    answers = json.loads((training / "detections.json").read_text())
    names = [answer["image_id"] for answer in answers]
    assert names == sorted(names) and len(set(names)) == 4


LATE = """
import os, sys, time
from data.run import Run

check, start = Run.check, Run.start

def look_late(self, *arguments, **named):
    time.sleep(2 * (os.environ["RANK"] == "1"))
    check(self, *arguments, **named)

def write_slowly(self, settings):
    self.folder.mkdir(parents=True)
    self.path("versions.json").write_text("{}")
    time.sleep(4)
    start(self, settings)

Run.check, Run.start = look_late, write_slowly
from dilo import probe

probe()
"""


def test_a_process_that_looks_late_finds_the_folder_as_the_first_did(voc, tmp_path):
    script = tmp_path / "late.py"
    script.write_text(LATE)
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", str(script),
               "detect", "random:resnet18", str(voc), "--device", "cpu", "--workers", "0",
               "--out", str(tmp_path / "out"), *SET, "--set", "steps=1"]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr


def test_nothing_to_find_is_told_before_training(probe, voc, tmp_path):
    root = shutil.copytree(voc, tmp_path / "voc")
    for path in root.rglob("t*.xml"):
        path.write_text(path.read_text().replace("<difficult>0", "<difficult>1"))
    done = probe("detect", "random:resnet18", root, *SET, "--out", tmp_path / "out", code=2)
    assert "test.txt lists no image with an object to find" in done.output
