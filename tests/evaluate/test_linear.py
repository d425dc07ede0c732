"""The linear probe: against scikit-learn, resumed, over processes, and through the command line."""

import functools
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from data.errors import UserError
from data.images.crop import centre_crop
from data.images.decode import decode
from data.run import Run
from evaluate import linear_training
from evaluate.labelled import open_split
from evaluate.linear_training import Training, new_head, remove_checkpoints, resume
from evaluate.protocols import PRESETS, Protocol
from pretrain.parts.distributed import World

ONE = World(0, 1, 0, 1, torch.device("cpu"))
QUICK = Protocol(lr=0.5, epochs=4, milestones=(2,), batch_size=16)


def test_presets_are_the_published_protocols():
    dilo, moco, places = (PRESETS[name] for name in ("dilo", "moco", "places"))
    assert [dilo.rate(e) for e in (0, 29, 30, 60, 99)] == pytest.approx([30, 30, 3, 0.3, 0.03])
    assert [moco.rate(e) for e in (0, 59, 60, 80)] == pytest.approx([30, 30, 3, 0.3])
    assert [places.rate(e) for e in (0, 7, 14, 21, 27)] == pytest.approx(
        [1e-2, 1e-3, 1e-4, 1e-5, 1e-5]
    )
    assert (dilo.weight_decay, dilo.momentum, dilo.nesterov, dilo.epochs) == (0, 0.9, False, 100)
    assert (places.weight_decay, places.nesterov, places.batch_norm) == (1e-4, True, True)


def test_head_starts_as_published():
    head = new_head(512, 100, Protocol())
    assert head.fc.weight.std().item() == pytest.approx(0.01, rel=0.02)
    assert not head.fc.bias.any()


def test_full_batch_training_reaches_scikit_learns_optimum(monkeypatch, split_folder, model_of):
    """Without augmentation and with weight decay the optimum is that of logistic regression."""
    monkeypatch.setattr(
        linear_training,
        "random_crop",
        functools.cache(lambda path, size, _: (centre_crop(decode(path).image, size),)),
    )
    split = open_split(split_folder)
    decay = 0.05
    settings = Protocol(lr=1.0, weight_decay=decay, epochs=90, milestones=(70,), batch_size=36)
    probe = Training(model_of(), split, settings, ONE)
    probe.run()

    def features(part):
        part_features = model_of().features(part, "part")
        ones = np.ones((len(part), 1))  # SGD decays the bias too: make it a weight for both
        return np.hstack([part_features.features.numpy(), ones])

    reference = LogisticRegression(C=1 / (decay * len(split.train)), fit_intercept=False, tol=1e-8)
    reference.fit(features(split.train), split.train.labels)
    ours = torch.cat([probe.head.fc.weight, probe.head.fc.bias[:, None]], 1).detach().numpy()
    np.testing.assert_allclose(ours, reference.coef_, atol=0.01)
    accuracy = reference.score(features(split.val), split.val.labels)
    assert probe.history[-1].top1 == pytest.approx(accuracy)
    assert accuracy > 0.4


def test_backbone_is_proved_unchanged(split_folder, model_of):
    split = open_split(split_folder)
    probe = Training(model_of(), split, QUICK, ONE)
    probe.run()
    probe = Training(model_of(), split, QUICK, ONE)
    probe.backbone.model.norm.running_mean += 1  # as a forgotten eval() would
    with pytest.raises(RuntimeError, match="backbone changed"):
        probe.run()


@pytest.mark.parametrize("batch_norm", [False, True])
def test_resumed_run_equals_an_uninterrupted_one(
    tmp_path, split_folder, model_of, batch_norm, capsys
):
    split = open_split(split_folder)
    settings = replace(QUICK, batch_norm=batch_norm)
    whole = Training(model_of(), split, settings, ONE)
    whole.run()

    class Killed(Exception):
        pass

    run, identity = Run(tmp_path / "out"), {"protocol": str(settings)}

    def die_after_two(probe):
        run.save(len(probe.history), {**probe.state(), "identity": identity})
        if len(probe.history) == 2:
            raise Killed

    with pytest.raises(Killed):
        Training(model_of(), split, settings, ONE).run(die_after_two)
    probe = Training(model_of(workers=2), split, settings, ONE)  # and other workers
    resume(run, probe, identity, overwrite=False)
    assert "after epoch 2 of 4" in capsys.readouterr().err
    probe.run()
    assert probe.history == whole.history
    for ours, theirs in zip(
        probe.head.state_dict().values(), whole.head.state_dict().values(), strict=True
    ):
        assert torch.equal(ours, theirs)

    with pytest.raises(UserError, match=r"has protocol = .*, not 'another'"):
        resume(run, probe, {"protocol": "another"}, overwrite=False)


def test_what_else_lies_beside_the_states_stays(tmp_path, split_folder, model_of):
    (tmp_path / "resume").mkdir()
    (tmp_path / "resume" / "precious.txt").write_text("mine")
    run = Run(tmp_path, checkpoints="resume")
    probe = Training(model_of(), open_split(split_folder), QUICK, ONE)
    probe.run(lambda probe: run.save(len(probe.history), probe.state()))
    assert len(list((tmp_path / "resume").iterdir())) == 3
    remove_checkpoints(run)
    assert [path.name for path in (tmp_path / "resume").iterdir()] == ["precious.txt"]


def test_unreadable_images_are_left_out_and_named(split_folder, model_of):
    (split_folder / "train" / "red" / "000.png").write_bytes(b"")
    (split_folder / "val" / "red" / "001.png").write_bytes(b"")
    probe = Training(model_of(), open_split(split_folder), QUICK, ONE)
    probe.run()
    assert probe.unreadable.keys() == {"red/000.png", "red/001.png"}


def test_diverging_training_says_so(split_folder, model_of):
    settings = replace(QUICK, lr=1e38)
    with pytest.raises(UserError, match="not finite"):
        Training(model_of(), open_split(split_folder), settings, ONE).run()


ARGUMENTS = (
    "--image-size", 32, "--workers", 0, "--device", "cpu", "--batch-size", 16,
)  # fmt: skip


def test_command_trains_and_reports(tmp_path, probe, split_folder, resnet18_file):
    out = tmp_path / "out"
    arguments = ("linear", resnet18_file, split_folder, *ARGUMENTS, "--epochs", 5, "--out", out)
    result = probe(*arguments, "--lr", 1)
    report = json.loads((out / "results.json").read_text())
    assert report["protocol"]["milestones"] == [2, 3, 4]
    assert report["protocol"]["preset"] == "dilo"
    assert report["arch"] == "resnet18" and report["layer"] == "penultimate"
    assert len(report["history"]) == 5
    assert f"{100 * report['top1']:.1f} [" in result.stdout
    assert report["top1"] > 0.5  # three colours, even through random weights
    assert "unchanged" in result.stderr
    assert cv2.imread(str(out / "curve.png")).size
    saved = torch.load(out / "classifier.pt", weights_only=True)
    assert saved["classes"] == ["blue", "green", "red"]
    assert saved["state_dict"]["fc.weight"].shape == (3, 512)
    assert not (out / "resume").exists()
    assert "--overwrite" in probe(*arguments, "--lr", 1, code=2).stderr


def test_overwriting_that_fails_keeps_the_old(
    tmp_path, probe, split_folder, resnet18_file, monkeypatch
):
    out = tmp_path / "out"
    arguments = ("linear", resnet18_file, split_folder, *ARGUMENTS, "--out", out)
    probe(*arguments, "--epochs", 1, "--lr", 1)
    before = (out / "results.json").read_text()
    save = Run.save

    def save_and_fail(self, *arguments):
        save(self, *arguments)
        raise UserError("it failed")

    with monkeypatch.context() as short:
        short.setattr(Run, "save", save_and_fail)
        error = probe(*arguments, "--epochs", 2, "--lr", 1, "--overwrite", code=2).stderr
    assert "it failed" in error and (out / "results.json").read_text() == before
    (folder,) = (out / "resume").iterdir()  # of this network
    torch.save(
        {
            "identity": {"protocol": "another"},
            "head": {},
            "optimizer": {},
            "history": [],
            "unreadable": {},
        },
        folder / "checkpoint-00000001.pt",
    )
    probe(*arguments, "--epochs", 2, "--lr", 1, "--overwrite")
    assert len(json.loads((out / "results.json").read_text())["history"]) == 2
    assert not (out / "resume").exists()


@pytest.fixture
def killed_after(monkeypatch):
    """Run something that is interrupted once the checkpoint of an epoch is written."""

    def run(epoch: int, command):
        save = Run.save

        def interrupted(self, step, *arguments):
            path = save(self, step, *arguments)
            if step == epoch:
                raise KeyboardInterrupt
            return path

        with monkeypatch.context() as short:
            short.setattr(Run, "save", interrupted)
            return command()

    return run


def test_command_continues_but_not_with_another_precision(
    tmp_path, probe, split_folder, resnet18_file, killed_after
):
    out = tmp_path / "out"
    arguments = (
        "linear", resnet18_file, "b=random:resnet18", split_folder, *ARGUMENTS,
        "--epochs", 3, "--lr", 1, "--out", out,
    )  # fmt: skip
    killed_after(2, lambda: probe(*arguments, code=130))
    assert not (out / "results.json").exists()
    assert "has --amp = False, not True" in probe(*arguments, "--amp", code=2).stderr
    assert "Continuing after epoch 2 of 3" in probe(*arguments).stderr
    rows = json.loads((out / "results.json").read_text())["rows"]
    assert [len(row["history"]) for row in rows] == [3, 3] and rows[1]["label"] == "b"
    assert not (out / "resume").exists() and (out / "classifier-2.pt").is_file()


def test_fast_command(tmp_path, probe, split_folder, resnet18_file):
    out = tmp_path / "out"
    result = probe(
        "linear", f"a={resnet18_file}", "a=random:resnet18", split_folder, *ARGUMENTS, "--fast",
        "--layer", "layer1", "--out", out, "--json",
    )  # fmt: skip
    report = json.loads(result.stdout)
    for number, row in enumerate(report["rows"], start=1):
        assert row["layer"] == "layer1" and row["label"] == f"a {number}"
        assert row["protocol"]["c"] in [float(c) for c in row["protocol"]["c_tried"]]
        assert row["top1_interval"][0] < row["top1"] > 0.5
        saved = torch.load(out / f"classifier-{number}.pt", weights_only=True)
        assert saved["state_dict"]["weight"].shape == (3, 64)
    (mean,), tops = report["means"], [row["top1"] for row in report["rows"]]
    assert mean["recipe"] == "a" and mean["top-1 %"] == pytest.approx(np.mean(tops))
    assert mean["top-1 %, standard error"] == pytest.approx(abs(tops[0] - tops[1]) / 2)


def test_two_processes_equal_one(tmp_path, probe, split_folder, resnet18_file):
    """torchrun over two processes: the same steps on the same images, so the same history."""
    repository = Path(__file__).resolve().parents[2]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(repository)}
    arguments = [
        str(part)
        for part in (
            "linear", resnet18_file, split_folder, *ARGUMENTS, "--epochs", 2, "--lr", 1,
        )
    ]  # fmt: skip
    probe(*arguments, "--out", tmp_path / "one")
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "evaluate"]
    subprocess.run(
        [sys.executable, *launch, *arguments, "--out", str(tmp_path / "two")],
        env=environment, cwd=repository, check=True, capture_output=True,
    )  # fmt: skip
    one, two = (
        json.loads((tmp_path / name / "results.json").read_text())["history"]
        for name in ("one", "two")
    )
    for ours, theirs in zip(one, two, strict=True):
        assert theirs["loss"] == pytest.approx(ours["loss"], rel=1e-3)
        assert theirs["top1"] == pytest.approx(ours["top1"], abs=0.07)


def test_what_other_processes_could_not_read_is_named_too(split_folder, model_of):
    class Two(World):
        def gather(self, values):
            return [*values, ("class0/of_the_other.png", "empty file")]

    settings = replace(QUICK, epochs=1)
    probe = Training(model_of(), open_split(split_folder), settings, Two(0, 1, 0, 1, ONE.device))
    probe.run()
    assert probe.unreadable == {"class0/of_the_other.png": "empty file"}


def test_command_says_before_training_that_out_cannot_be_written(
    tmp_path, probe, split_folder, resnet18_file, monkeypatch
):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(Training, "run", lambda *_: pytest.fail("it trained"))
    result = probe(
        "linear", resnet18_file, split_folder, *ARGUMENTS, "--out", tmp_path / "file/out", code=2
    )
    assert "file/out' cannot be used" in result.stderr
