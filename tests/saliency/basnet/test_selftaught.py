"""Learning without ground truth: labels, rounds, what is learnt, exact resume, the stop rule."""

import math
import os
import shutil
import signal

import cv2
import numpy as np
import pytest
import torch
from click.testing import CliRunner

from data.keys import Keys
from data.masks.format import ChunkEncoder, ShardWriter, shard_name
from data.masks.precision_recall import Curve, normalise, precision_recall
from data.masks.read import MaskShards
from data.metrics import read_metrics
from saliency.basnet import load_basnet, predict, selftaught, trainer
from saliency.basnet.loss import robust_loss
from saliency.basnet.selftaught import Labels, moving_average, vote
from saliency.basnet.train import main
from saliency.basnet.trainer import Trainer

SIDE, COUNT, HELD_OUT = 48, 24, 8
TEACHERS = ("adds", "cuts", "bars")
SMALL = (
    "--width", "0.0625", "--resize", "40", "--crop", "32", "--batch-size", "4", "--workers", "0",
    "--device", "cpu", "--schedule", "cosine",
)  # fmt: skip
TWO_ROUNDS = ("--epochs", 2, "--rounds", 2)


def write_masks(folder, masks):
    keys = Keys(masks)
    encoder = ChunkEncoder(SIDE)
    attributes = {"method": "rbd", "parameters": {}, "software": {}}
    attributes["listing_digest"] = keys.digest()
    path = folder / shard_name(0)
    folder.mkdir(parents=True)
    with ShardWriter(path, 0, 1, keys, SIDE, "zstd", attributes) as writer:
        for row, mask in enumerate(masks.values()):
            writer.write(row, encoder.encode(mask), mask.shape, mask.shape)
        writer.commit()
    return folder


@pytest.fixture(scope="module")
def discs(tmp_path_factory):
    """Bright discs, their truth, and three teachers with errors of their own: one adds a square,
    one cuts the left or right half off and adds a stripe, one adds a bar along an edge.
    """
    root = tmp_path_factory.mktemp("discs")
    for name in ("images", "masks"):
        (root / name).mkdir()
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:SIDE, :SIDE]
    teachers = {name: {} for name in TEACHERS}
    for number in range(COUNT):
        row, column = rng.integers(17, 31, 2)
        disc = (y - row) ** 2 + (x - column) ** 2 < 11**2
        picture = rng.integers(0, 90, (SIDE, SIDE, 3)) + disc[..., None] * 150
        cv2.imwrite(str(root / "images" / f"{number:02d}.png"), picture.astype(np.uint8))
        cv2.imwrite(str(root / "masks" / f"{number:02d}.png"), (disc * 255).astype(np.uint8))
        top, left = rng.integers(11, SIDE - 11, 2)
        square = (abs(y - top) < 12) & (abs(x - left) < 12)
        half = (x < column) == rng.integers(2)
        stripe = abs(y - rng.integers(3, SIDE - 3)) < 4
        bar = np.rot90(y < 9, rng.integers(4))
        for name, mask in (
            ("adds", disc | square),
            ("cuts", disc & half | stripe),
            ("bars", disc | bar),
        ):
            teachers[name][f"{number:02d}.png"] = (mask * 220 + 15).astype(np.uint8)
    for name, masks in teachers.items():
        write_masks(root / name, masks)
    return root


def train(discs, out, *arguments, teachers=TEACHERS, truth="masks"):
    given = ("--masks", discs / truth, "--hold-out", HELD_OUT) if truth else ()
    names = ",".join(str(discs / name) for name in teachers)
    arguments = (discs / "images", "--teachers", names, "--out", out, *given, *SMALL, *arguments)
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def scores(maps, truths):
    """Max F and MAE."""
    levels = [normalise(np.asarray(each)) for each in maps]
    pairs = zip(levels, truths, strict=True)
    curves = np.mean([precision_recall(level, truth) for level, truth in pairs], axis=0)
    errors = [np.abs(a / 255 - b).mean() for a, b in zip(levels, truths, strict=True)]
    return Curve(*curves).max_f, np.mean(errors)


def test_robust_loss_equals_its_equation():
    rng = np.random.default_rng(0)
    logits = [torch.tensor(rng.normal(size=(2, 1, 5, 6)) * 3) for _ in range(3)]
    label = rng.random((2, 1, 5, 6))
    label[0, 0, 0] = 0.5  # of no weight
    expected, q = 0.0, 0.7
    for output in logits:
        p = 1 / (1 + np.exp(-output.numpy()))
        cost = weights = overlap = 0.0
        for p_map, y_map in zip(p[:, 0], label[:, 0], strict=True):
            shared = joint = 0.0
            for pi, yi in zip(p_map.ravel(), y_map.ravel(), strict=True):
                w = abs(2 * yi - 1)
                weights += w
                cost += w * (yi * (1 - pi**q) + (1 - yi) * (1 - (1 - pi) ** q)) / q
                shared += w * pi * yi
                joint += w * (pi + yi - pi * yi)
            overlap += shared / joint / 2
        expected += cost / weights + 1 - overlap
    assert math.isclose(robust_loss(tuple(logits), torch.tensor(label)).item(), expected)


def test_robust_loss_has_gradients_where_a_map_is_sure():
    logits = torch.tensor([-200.0, 200.0, 0.0]).view(1, 1, 1, 3).requires_grad_()
    for label in (torch.zeros(1, 1, 1, 3), torch.ones(1, 1, 1, 3), torch.full((1, 1, 1, 3), 0.5)):
        logits.grad = None
        robust_loss((logits,), label).backward()
        assert torch.isfinite(logits.grad).all()


def test_moving_average_is_the_recursion():
    maps = np.random.default_rng(0).random((3, 4, 5), np.float32)
    expected = 0.3 * maps[2] + 0.7 * (0.3 * maps[1] + 0.7 * maps[0])
    np.testing.assert_allclose(moving_average(maps), expected, rtol=1e-6)


def test_a_vote_follows_most_teachers_and_leaves_one_alone():
    yes, no = np.full((6, 6), 0.1), np.full((6, 6), 0.1)
    yes[2:4, 2:4] = no[4:, 4:] = 0.9
    joined = vote(np.stack([yes, yes, no]))
    outvoted = 1 / (1 + 9 * math.exp(-5 * 2 * 0.15))  # two others' evidence in five steps
    agreed = 1 / (1 + 9 * math.exp(5 * 2 * 0.15))
    np.testing.assert_allclose(joined[2:4, 2:4], (0.9 + 0.9 + outvoted) / 3, rtol=1e-5)
    np.testing.assert_allclose(joined[4:, 4:], 1 - (0.9 + 0.9 + outvoted) / 3, rtol=1e-5)
    np.testing.assert_allclose(joined[0], agreed, rtol=1e-5)
    one = np.random.default_rng(0).uniform(0.05, 0.95, (1, 6, 6)).astype(np.float32)
    np.testing.assert_allclose(vote(one), one[0], rtol=1e-6)


def test_the_networks_average_has_a_vote_beside_the_teachers(tmp_path):
    rng = np.random.default_rng(0)
    maps = rng.integers(0, 256, (5, 8, 8), np.uint8)
    folders = [write_masks(tmp_path / str(i), {"a": each}) for i, each in enumerate(maps)]
    label = Labels(folders[:2], Keys(["a"]), 8, folders[2:])[0]
    maps = maps.astype(np.float32) / 255
    np.testing.assert_array_equal(label, vote(np.stack([*maps[:2], moving_average(maps[2:])])))


def test_learns_more_than_any_teacher_knows(discs, tmp_path):
    """Of the photographs it learnt from, and of others."""
    done = train(discs, tmp_path, "--epochs", 12, "--rounds", 2, "--lr", 0.003)
    assert done.exit_code == 0 and "all rounds are done" in done.output, done.output
    names = [f"{number:02d}.png" for number in range(COUNT)]
    images = [cv2.imread(str(discs / "images" / name))[..., ::-1] for name in names]
    truths = [cv2.imread(str(discs / "masks" / name))[..., 0] > 128 for name in names]
    network = load_basnet(tmp_path / "best.pth")
    own = [np.rint(255 * each).astype(np.uint8) for each in predict(images, network, 40)]
    for part in (slice(0, COUNT - HELD_OUT), slice(COUNT - HELD_OUT, COUNT)):
        max_f, error = scores(own[part], truths[part])
        for teacher in TEACHERS:
            masks = MaskShards(discs / teacher)
            theirs = scores([masks.read(name) for name in names[part]], truths[part])
            assert max_f > theirs[0] + 0.1 and error < theirs[1], (part, teacher, max_f, error)


def test_resumed_run_equals_an_uninterrupted_one(discs, tmp_path, monkeypatch):
    """Stopped while it makes masks after its first round, then in the middle of the second."""
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert train(discs, whole, *TWO_ROUNDS).exit_code == 0
    with monkeypatch.context() as patch:

        def asked(settings, given):
            raise KeyboardInterrupt(signal.SIGTERM)

        patch.setattr(selftaught, "compute_masks", asked)
        stopped = train(discs, parts, *TWO_ROUNDS)
    assert stopped.exit_code == 0 and "saved after step 4" in stopped.output, stopped.output
    with monkeypatch.context() as patch:
        original = Trainer._train_step

        def step(trainer, *arguments):
            if trainer.step == 5:
                os.kill(os.getpid(), signal.SIGTERM)
            return original(trainer, *arguments)

        patch.setattr(Trainer, "_train_step", step)
        stopped = train(discs, parts, *TWO_ROUNDS, "--resume")
    assert stopped.exit_code == 0 and "saved after step 6" in stopped.output, stopped.output
    done = train(discs, parts, *TWO_ROUNDS, "--resume")
    assert done.exit_code == 0, done.output
    for name in ("best.pth", "last.pth"):
        a, b = torch.load(whole / name), torch.load(parts / name)
        assert all(torch.equal(a[key], b[key]) for key in a)
    a, b = (
        [line for line in read_metrics(run / "metrics.jsonl") if "loss" not in line]
        for run in (whole, parts)
    )
    assert a == b and sum("change" in line for line in a) == 1


def test_settled_labels_end_it_and_the_truth_has_no_say(discs, tmp_path, monkeypatch):
    monkeypatch.setattr(trainer, "SETTLED", 1.0)
    shutil.copytree(discs / "masks", tmp_path / "wrong")
    for path in (tmp_path / "wrong").iterdir():
        cv2.imwrite(str(path), 255 - cv2.imread(str(path)))
    short = ("--epochs", 3, "--rounds", 3, "--validate-every", 1)
    weights = []
    for truth in (discs / "masks", tmp_path / "wrong"):
        run = tmp_path / f"run-{truth.name}"
        done = train(discs, run, *short, truth=truth)
        assert "its labels have settled" in done.output, done.output
        lines = read_metrics(run / "metrics.jsonl")
        assert sum("epoch_loss" in line for line in lines) == 1  # of three
        (change,) = [line["change"] for line in lines if "change" in line]
        weights.append(torch.load(run / "best.pth"))
    keys = MaskShards(run / "epochs" / "0001").keys
    folders = [discs / name for name in TEACHERS]
    teachers = Labels(folders, keys, 40)
    first = Labels(folders, keys, 40, [run / "epochs" / "0001"])
    assert math.isclose(change, np.mean([abs(first[i] - teachers[i]).mean() for i in range(16)]))
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])


def test_methods_are_teachers_and_no_truth_is_needed(discs, tmp_path):
    for path in sorted((discs / "images").iterdir())[:4]:
        (tmp_path / "images").mkdir(exist_ok=True)
        shutil.copy(path, tmp_path / "images")
    out = tmp_path / "run"
    arguments = (tmp_path / "images", "--teachers", "rbd,gs", "--out", out, *SMALL)
    done = CliRunner().invoke(main, [*map(str, arguments), "--epochs", "1", "--rounds", "1"])
    assert done.exit_code == 0, done.output
    masks = MaskShards(out / "teachers" / "gs")
    assert masks.method == "gs" and list(masks.keys) == [f"{i:02d}.png" for i in range(4)]
    assert load_basnet(out / "best.pth") and list((out / "predictions").iterdir())


def test_mistakes_get_a_sentence(discs, tmp_path):
    def complaint(*arguments, **options):
        done = train(discs, tmp_path / "run", *arguments, **options)
        assert done.exit_code == 2, done.output
        return done.output.strip().splitlines()[-1]

    assert "neither a method per pixel (rbd, " in complaint(teachers=("none",))
    assert "--epochs 4 is no multiple of --rounds 3" in complaint("--epochs", 4)
    assert "needs --masks" in complaint("--hold-out", 2, truth=None)
    assert not (tmp_path / "run").exists()
    (tmp_path / "few").mkdir()
    write_masks(tmp_path / "few" / "masks", {"00.png": np.full((9, 9), 9, np.uint8)})
    sentence = complaint("--epochs", 3, teachers=(tmp_path / "few" / "masks",))
    assert "15 of 16 photographs have no mask" in sentence and "'01.png'" in sentence
