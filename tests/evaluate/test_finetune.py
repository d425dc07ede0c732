"""Fine-tuning: the published protocol, a plain loop, exact resume, and what the command writes."""

import json
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
import torchvision
from sklearn.metrics import confusion_matrix
from torch.nn import functional

from data.images.crop import centre_crop, evaluation_size
from data.images.decode import decode
from data.loading import normalise, seeded_order
from data.run import Run
from evaluate import linear_training
from evaluate.checkpoints import load_checkpoint
from evaluate.finetune import Options, confusion
from evaluate.labelled import open_split
from evaluate.linear_training import Training, new_head, resume
from evaluate.models import Backbone
from evaluate.protocols import FINE_TUNING
from pretrain.parts.distributed import World

ONE = World(0, 1, 0, 1, torch.device("cpu"))
QUICK = replace(FINE_TUNING, lr=0.05, epochs=2)


def test_the_protocol_is_the_published_one():
    options = Options(checkpoints=("x",), images="y")
    assert options.protocol() == FINE_TUNING
    p = FINE_TUNING
    assert (p.lr, p.momentum, p.weight_decay, p.epochs) == (1e-3, 0.9, 5e-4, 200)
    assert (p.batch_size, p.scale) == (16, (0.5, 1.0))
    assert [p.rate(e) for e in (0, 100, 199)] == pytest.approx([1e-3, 5e-4, 6.2e-8], rel=0.01)
    assert [min(evaluation_size(500, 400, size)) for size in (224, 448)] == [256, 512]


def test_training_is_a_plain_loop(monkeypatch, split_folder, model_of, resnet18_file):
    """The same steps written out, with torchvision's network, on centre crops."""
    crop = lambda path, size: centre_crop(decode(path).image, size)  # noqa: E731
    monkeypatch.setattr(
        linear_training, "random_crop", lambda path, size, scale: (crop(path, size),)
    )
    split = open_split(split_folder)
    settings = replace(QUICK, lr=0.002, batch_size=18)  # else rounding is magnified
    backbone = Backbone(load_checkpoint(resnet18_file))
    training = Training(model_of(backbone, 64), split, settings, ONE, whole=True)
    training.run()

    network = torchvision.models.resnet18()
    network.load_state_dict(torch.load(resnet18_file, weights_only=True))
    network.fc = new_head(512, 3, settings).fc
    optimizer = torch.optim.SGD(network.parameters(), 0.002, momentum=0.9, weight_decay=5e-4)
    root = split.train.root
    images = np.stack([crop(str(root / key), 64) for key in split.train.keys])
    images, labels = normalise(torch.from_numpy(images)), torch.from_numpy(split.train.labels)
    network.train()
    losses = []
    for epoch in range(2):
        optimizer.param_groups[0]["lr"] = settings.rate(epoch)
        total = 0.0
        for rows in np.split(seeded_order(0, 36)(epoch), [18]):
            loss = functional.cross_entropy(network(images[rows]), labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item() * len(rows)
        losses.append(total / 36)
    assert [epoch.loss for epoch in training.history] == pytest.approx(losses, rel=1e-3)
    begin = torch.load(resnet18_file, weights_only=True)
    ours, theirs = backbone.model.state_dict(), network.state_dict()
    for name in ("conv1.weight", "layer4.1.conv2.weight", "layer2.0.bn1.running_mean"):
        change = theirs[name] - begin[name]
        assert (ours[name] - theirs[name]).norm() < 0.1 * change.norm(), name


def test_stopped_and_resumed_is_exact(tmp_path, split_folder, model_of, resnet18_file, capsys):
    split = open_split(split_folder)

    def start(**options):
        backbone = Backbone(load_checkpoint(resnet18_file))
        return Training(model_of(backbone, 32, **options), split, QUICK, ONE, whole=True)

    whole = start()
    whole.run()
    run, identity = Run(tmp_path / "out"), {"protocol": str(QUICK)}

    class Killed(Exception):
        pass

    def die(training):
        run.save(len(training.history), {**training.state(), "identity": identity})
        raise Killed

    with pytest.raises(Killed):
        start().run(die)
    done = start()
    done.restore(whole.state())  # killed after its last epoch
    done.run()
    assert all(map(torch.equal, done.predicted, whole.predicted))
    again = start(workers=1)
    resume(run, again, identity, overwrite=False)
    assert "after epoch 1 of 2" in capsys.readouterr().err
    again.run()
    assert again.history == whole.history
    for name, value in whole.backbone.state_dict().items():
        assert torch.equal(again.backbone.state_dict()[name], value), name


def test_confusion_is_scikit_learns():
    rng = np.random.default_rng(0)
    labels, predicted = rng.integers(0, 5, (2, 200))
    expected = confusion_matrix(labels, predicted, labels=range(6))
    assert np.array_equal(confusion(predicted, labels, 6), expected)


ARGUMENTS = ("--image-size", 32, "--workers", 0, "--device", "cpu", "--lr", 0.02)


def test_command(tmp_path, probe, split_folder, resnet18_file, monkeypatch):
    (split_folder / "val" / "red" / "001.png").write_bytes(b"")
    out = tmp_path / "out"
    arguments = ("finetune", resnet18_file, split_folder, *ARGUMENTS, "--epochs", 3, "--out", out)
    save = Run.save

    def interrupted(self, step, *more):
        save(self, step, *more)
        raise KeyboardInterrupt

    with monkeypatch.context() as short:
        short.setattr(Run, "save", interrupted)
        probe(*arguments, code=130)
    assert "has --amp = False, not True" in probe(*arguments, "--amp", code=2).stderr
    done = probe(*arguments)
    assert "Continuing after epoch 1 of 3" in done.stderr and "red/001.png" in done.stderr
    report = json.loads((out / "results.json").read_text())
    assert not (out / "resume").exists()
    assert len(report["history"]) == 3 and report["protocol"]["cosine"]
    tops = [epoch["top1"] for epoch in report["history"]]
    assert report["median_top1"] == np.median(tops) and report["top1"] == tops[-1]
    assert f"{100 * report['median_top1']:.2f}" in done.stdout
    for name in ("curve.png", "confusion.png"):
        assert cv2.imread(str(out / name)).size

    # torchvision's network takes the whole, and classifies as was reported
    saved = torch.load(out / "finetuned.pt", weights_only=True)
    network = torchvision.models.resnet18(num_classes=3).eval()
    network.load_state_dict(saved["state_dict"], strict=True)
    val = open_split(split_folder).val
    right = {name: [] for name in saved["classes"]}
    for row, key in enumerate(val.keys):
        if key != "red/001.png":
            crop = torch.from_numpy(centre_crop(val.image(row), 32).copy())[None]
            with torch.no_grad():
                answer = network(normalise(crop)).argmax().item()
            right[val.class_of(row)].append(answer == val.labels[row])
    shares = {name: np.mean(values) for name, values in right.items()}
    assert report["class_top1"] == pytest.approx(shares)
    assert report["mean_class_top1"] == pytest.approx(np.mean(list(shares.values())))
    assert sum(pair["images"] for pair in report["confused"]) == sum(
        values.count(False) for values in right.values()
    )
    assert load_checkpoint(out / "finetuned.pt").source.arch == "resnet18"


def test_mistakes_are_one_sentence(tmp_path, probe, split_folder, resnet18_file):
    arguments = ("finetune", resnet18_file, split_folder, *ARGUMENTS, "--out", tmp_path / "out")
    cases = {
        "the whole network is fine-tuned; leave it out": ("--layer", "layer3"),
        "--lr is 0": ("--lr", 0),
        "--epochs is 0": ("--epochs", 0),
        "the loss is not finite in epoch 1 at --lr 3e+38": ("--lr", 3e38, "--epochs", 1),
    }
    for sentence, options in cases.items():
        result = probe(*arguments, *options, code=2)
        assert sentence in result.stderr.splitlines()[-1], result.stderr
