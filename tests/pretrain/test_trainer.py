"""Whole runs: what they leave, exact resume, several processes, bad ends."""

import json
import math
import os
import random
import shutil
import signal

import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from torchvision import models

from data import run as checkpoint
from data.errors import RunFailed, UserError
from data.knn import weighted_knn
from data.processes import stop_on_signals
from pretrain import online_knn, trainer
from pretrain.cli import main
from pretrain.parts import encoder
from pretrain.parts.backbones import build_backbone
from pretrain.trainer import train
from tests.pretrain.mask_samples import soft_mask, write_masks
from tests.pretrain.runs import (
    command,
    finish,
    losses,
    metrics,
    same_weights,
    start,
    stop_after,
    stop_within,
    tiny,
)


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def whole_run(photographs, tmp_path_factory):
    """A run that was never stopped; 3 epochs of 3 steps."""
    out = tmp_path_factory.mktemp("whole") / "run"
    assert train(tiny(photographs, epochs=3), out).done
    return out


# ---- what a run leaves ----


def test_run_folder(whole_run, photographs):
    lines = metrics(whole_run)
    assert [line["step"] for line in lines] == list(range(1, 10))
    assert [line["epoch"] for line in lines] == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    names = {"step", "epoch", "loss", "lr", "images_per_second", "loader_wait"}
    assert set(lines[0]) == names and 0 < lines[0]["loader_wait"] < 1
    # milestones .6 and .8 of 3 epochs round to the third
    assert [line["lr"] for line in lines] == pytest.approx([0.03] * 6 + [0.0003] * 3)
    assert [s for s, _ in checkpoint.checkpoints(whole_run / "checkpoints")] == [6, 9]
    assert (whole_run / "curve.png").read_bytes().startswith(b"\x89PNG")
    assert (whole_run / "views.png").read_bytes().startswith(b"\x89PNG")
    assert list((whole_run / "tensorboard").iterdir())
    assert "torch" in json.loads((whole_run / "versions.json").read_text())
    assert "image_size = 32\n" in (whole_run / "config.toml").read_text()


def test_backbone_loads_strictly_into_torchvision(whole_run):
    saved = torch.load(whole_run / "backbone.pt", weights_only=True)
    assert (saved["format"], saved["arch"]) == ("dilo-backbone", "resnet18")
    assert json.loads(saved["config"])["image_size"] == 32
    network = models.resnet18(weights=None)
    network.fc = torch.nn.Identity()
    network.load_state_dict(saved["state_dict"], strict=True)


def test_same_seed_same_run_other_seed_another(photographs, whole_run, tmp_path):
    train(tiny(photographs, epochs=3), tmp_path / "same")
    assert losses(tmp_path / "same") == losses(whole_run)
    assert same_weights(tmp_path / "same", whole_run)
    train(tiny(photographs, epochs=1, seed=1), tmp_path / "other")
    assert losses(tmp_path / "other")[1] != losses(whole_run)[1]


def test_workers_do_not_matter(photographs, whole_run, tmp_path):
    train(tiny(photographs, epochs=3, workers=3), tmp_path / "run")
    assert losses(tmp_path / "run") == losses(whole_run)


def test_loss_falls_below_that_of_a_network_that_knows_nothing(photographs, tmp_path):
    # twelve images, each its own class: the memory learns them soon
    settings = tiny(
        photographs, epochs=16, batch_size=12, lr=0.01, negatives="all", paste_probability=0
    )
    train(settings, tmp_path / "run")
    found = list(losses(tmp_path / "run").values())
    assert sum(found[-8:]) / 8 < 0.9 * math.log(12)


# ---- resume ----


@pytest.mark.parametrize(
    ("changes", "stop_at"),
    [
        ({}, 3),  # at an epoch's end; test_every_method stops within one
        ({"loss": "nce"}, 1),
        ({"dropout": True}, 2),
        ({"decode": "device", "image_size": 64}, 2),
    ],
    ids=["instdisc", "nce", "dropout", "decode"],
)
def test_stopped_and_resumed_is_exact(photographs, tmp_path, changes, stop_at, monkeypatch):
    with monkeypatch.context() as patch:
        if changes.pop("dropout", False):  # as AlexNet and VGG16 have it, in a smaller network
            patch.setattr(encoder, "build_backbone", with_dropout)
        train(tiny(photographs, **changes), tmp_path / "whole")
        out = tmp_path / "stopped"
        with monkeypatch.context() as short:
            stop_within(short, stop_at)
            outcome = train(tiny(photographs, **changes), out)
        assert not outcome.done
        assert max(losses(out)) == stop_at
        assert train(tiny(photographs, workers=1, **changes), out, resume=True).done
        assert losses(out) == losses(tmp_path / "whole")
        assert same_weights(out, tmp_path / "whole")


def with_dropout(arch):
    return torch.nn.Sequential(build_backbone(arch), torch.nn.Dropout())


def test_killed_at_random_steps_and_resumed_is_exact(photographs, whole_run, tmp_path):
    out = tmp_path / "run"
    random.seed(os.getpid())
    for step in sorted(random.sample(range(1, 9), 2)):
        run = start(
            command(photographs, out, "--resume", epochs=3, checkpoint_every_steps=2, workers=1)
        )
        stop_after(run, out, step, signal.SIGKILL)
        run.communicate()
    finish(start(command(photographs, out, "--resume", epochs=3, workers=2)))
    assert losses(out) == pytest.approx(losses(whole_run), rel=0, abs=0)
    assert same_weights(out, whole_run)


def test_sigterm_saves_and_exits_0(photographs, whole_run, tmp_path):
    out = tmp_path / "run"
    run = start(command(photographs, out, epochs=3, workers=2))
    stop_after(run, out, 2, signal.SIGTERM)
    text = finish(run, code=0)
    assert "saved in" in text and "--resume" in text and "Traceback" not in text
    ((step, _),) = checkpoint.checkpoints(out / "checkpoints")[-1:]
    assert step == max(losses(out))
    finish(start(command(photographs, out, "--resume", epochs=3)))
    assert losses(out) == losses(whole_run)


def test_interrupt_saves_and_says_how_to_go_on(photographs, tmp_path):
    out = tmp_path / "run"
    run = start(command(photographs, out, epochs=50))
    stop_after(run, out, 2, signal.SIGINT)
    text = finish(run, code=130)
    assert "Interrupted" in text and "--resume" in text and "Traceback" not in text
    assert checkpoint.checkpoints(out / "checkpoints")


def test_resume_needs_no_settings_again(photographs, tmp_path, monkeypatch):
    with monkeypatch.context() as short:
        stop_within(short, 2)
        train(tiny(photographs), tmp_path / "run")
    arguments = [str(photographs.images), "--out", str(tmp_path / "run"), "--resume"]
    assert CliRunner().invoke(main, arguments).exit_code == 0
    assert max(losses(tmp_path / "run")) == 6


def test_damaged_last_checkpoint(photographs, whole_run, tmp_path, monkeypatch, capsys):
    out = tmp_path / "run"
    with monkeypatch.context() as short:
        stop_within(short, 8)
        train(tiny(photographs, epochs=3), out)
    (_, before), (_, last) = checkpoint.checkpoints(out / "checkpoints")
    last.write_bytes(last.read_bytes()[:-1000])
    train(tiny(photographs, epochs=3), out, resume=True)
    text = capsys.readouterr().out
    assert f"{last} is skipped" in text and before.name in text
    assert losses(out) == losses(whole_run)


def test_resume_of_a_finished_run_changes_nothing(photographs, tmp_path):
    out = tmp_path / "run"
    train(tiny(photographs, epochs=1), out)
    text = (out / "metrics.jsonl").read_text()
    assert train(tiny(photographs, epochs=1), out, resume=True).done
    assert (out / "metrics.jsonl").read_text() == text


def test_checkpoints_that_are_gone(photographs, tmp_path, monkeypatch, capsys):
    out = tmp_path / "run"
    with monkeypatch.context() as short:
        stop_within(short, 5)
        train(tiny(photographs), out)
    shutil.rmtree(out / "checkpoints")
    text = (out / "metrics.jsonl").read_text()
    with pytest.raises(UserError, match=r"came to step 5, .* no checkpoint any more; put them"):
        train(tiny(photographs), out, resume=True)
    assert (out / "metrics.jsonl").read_text() == text
    # within the first epoch there may be none yet
    (out / "metrics.jsonl").write_text("".join(text.splitlines(True)[:2]))
    assert train(tiny(photographs), out, resume=True).done
    assert "came to step 2 without a checkpoint; it starts again" in capsys.readouterr().out
    assert max(losses(out)) == 6


# ---- several processes, and parts of a batch ----


def test_two_processes_stopped_and_resumed(photographs, tmp_path, capsys):
    """A signal that torchrun gets stops both at the same step, and saves; going on is exact."""
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")
    whole, out = tmp_path / "whole", tmp_path / "run"
    finish(start(command(photographs, whole), launcher))
    run = start(command(photographs, out), launcher)
    stop_after(run, out, 1, signal.SIGTERM)  # within the first epoch, so nothing else saves
    text, _ = run.communicate(timeout=60)  # torchrun itself reports the signal
    assert "all is saved" in text
    ((step, _),) = checkpoint.checkpoints(out / "checkpoints")
    assert step == max(losses(out)) < 6
    half = shutil.copytree(out, tmp_path / "half")
    finish(start(command(photographs, out, "--resume"), launcher))
    assert losses(out) == losses(whole)
    # one process goes on too, and says why its losses will be others
    assert train(tiny(photographs), half, resume=True).done
    assert "2 batch-norm groups, and now has 1" in capsys.readouterr().out


def test_accumulated_gradients_are_the_batchs(photographs, tmp_path):
    changes = {"batch_size": 8, "image_size": 64, "lr": 0.003}
    train(tiny(photographs, **changes, bn_groups=2), tmp_path / "one")
    train(tiny(photographs, **changes, accumulate=2), tmp_path / "parts")
    one, parts = losses(tmp_path / "one"), losses(tmp_path / "parts")
    assert list(parts.values()) == pytest.approx(list(one.values()), rel=2e-3)


# ---- online kNN ----


def test_knn_where_there_are_labels(labelled, tmp_path):
    settings = tiny(labelled, masks=None, paste_probability=0, knn_every=1)
    train(settings, tmp_path / "run")
    lines = [line for line in metrics(tmp_path / "run") if "knn" in line]
    assert [(line["epoch"], line["step"]) for line in lines] == [(0, 0), (0, 6), (1, 12)]
    assert all(0 <= line["knn"] <= 1 for line in lines)
    # the figure changes nothing
    train(tiny(labelled, masks=None, paste_probability=0), tmp_path / "without")
    assert losses(tmp_path / "without") == losses(tmp_path / "run")


@pytest.mark.parametrize("call", [2, 3], ids=["first epoch", "last epoch"])
def test_killed_within_the_knn_loses_no_epoch(labelled, tmp_path, call, monkeypatch):
    """An epoch is saved before its kNN; whoever goes on measures what was missed, once."""
    settings, calls = tiny(labelled, masks=None, paste_probability=0, knn_every=1), 0

    def killed(*arguments):
        nonlocal calls
        calls += 1
        if calls == call:
            raise KeyboardInterrupt
        return weighted_knn(*arguments)

    out = tmp_path / "run"
    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        patch.setattr(online_knn, "weighted_knn", killed)
        train(settings, out)
    assert checkpoint.checkpoints(out / "checkpoints")[-1][0] == 6 * (call - 1)
    assert train(settings, out, resume=True).done
    assert [line["step"] for line in metrics(out) if "knn" in line] == [0, 6, 12]
    assert (out / "backbone.pt").exists()


@pytest.fixture
def labelled(photographs, tmp_path):
    """The photographs twice, in two classes."""
    root = tmp_path / "labelled"
    for path in photographs.images.rglob("*.jpg"):
        for copy in "ab":
            target = root / path.parent.name / f"{copy}{path.name}"
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
    return type(photographs)(root, photographs.masks, {})


def test_knn_images_of_other_classes(photographs, labelled, tmp_path):
    for number, path in enumerate(photographs.images.rglob("*.jpg")):
        target = tmp_path / "other" / f"kind{number % 2}" / path.name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
    settings = tiny(labelled, paste_probability=0, knn_every=1, knn_images=str(tmp_path / "other"))
    with pytest.raises(UserError, match="class folders"):
        train(settings, tmp_path / "run")


def test_knn_images_without_classes_to_go_by(photographs, labelled, tmp_path):
    root = tmp_path / "flat"
    shutil.copytree(photographs.images / next(photographs.images.iterdir()).name, root)
    settings = tiny(photographs, negatives=1, paste_probability=0, knn_every=1).model_copy(
        update={
            "images": str(root),
            "knn_images": str(labelled.images),
            "batch_size": 2,
        }
    )
    with pytest.raises(UserError, match="lie in no class folders to classify it by"):
        train(settings, tmp_path / "run")


def test_no_knn_without_labels(photographs, tmp_path, capsys):
    root = tmp_path / "flat"
    root.mkdir()
    for number, path in enumerate(photographs.images.rglob("*.jpg")):
        for copy in range(2):
            (root / f"{number}{copy}.jpg").write_bytes(path.read_bytes())
    settings = tiny(photographs, images=str(root), paste_probability=0, epochs=1, knn_every=1)
    train(settings, tmp_path / "run")
    assert "kNN" not in capsys.readouterr().out
    assert not any("knn" in line for line in metrics(tmp_path / "run"))


# ---- bad ends ----


def test_loss_that_is_not_finite(photographs, tmp_path, monkeypatch):
    rate = trainer.learning_rate
    monkeypatch.setattr(
        trainer,
        "learning_rate",
        lambda step, *a, **o: math.inf if step == 4 else rate(step, *a, **o),
    )
    with pytest.raises(RunFailed, match=r"loss of step 6 .* is nan; the last good .*00000003"):
        train(tiny(photographs), tmp_path / "run")
    assert max(losses(tmp_path / "run")) == 5


def test_unreadable_image_is_replaced_and_reported(photographs, tmp_path, capsys):
    root = tmp_path / "images"
    for path in photographs.images.rglob("*.jpg"):
        target = root / path.parent.name / path.name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
    target.write_bytes(b"not a JPEG")
    target.rename(target.with_name(os.fsdecode(b"\xff odd\n.jpg")))  # sorts, as before, last
    first = min(root.rglob("*.jpg"))
    whole = first.read_bytes()
    first.write_bytes(whole[: len(whole) // 2] + b"\xff\xd9")
    settings = tiny(photographs, images=str(root), allow_missing_masks=True)
    train(settings, tmp_path / "run")
    text = capsys.readouterr().out
    assert "1 unreadable image" in text and r"\udcff odd\n.jpg: not an image" in text
    lines = [line for line in metrics(tmp_path / "run") if "replaced" in line]
    assert [line["replaced"] for line in lines] == [1, 1]
    assert "1 images are damaged inside" in text and f"{first.name}: Corrupt JPEG data" in text
    assert [line["damaged"] for line in metrics(tmp_path / "run") if "damaged" in line] == [1, 1]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"batch_size": 13}, "batch_size is 13, more than the 12 images"),
        ({"negatives": 13}, "negatives is 13, more than the 12 images"),
        ({"accumulate": 3}, "batch_size is 4, which .* accumulate = 3"),
        ({"method": "moco", "negatives": 10}, "negatives is 10, .* multiple of the batch of 4"),
        ({"bn_groups": 3}, "bn_groups is 3"),
        ({"masks": None}, "needs masks"),
        ({"init": "nothing.pt"}, "init 'nothing.pt': there is no such file"),
        ({"arch": "alexnet"}, "image_size is 32, too small for alexnet; give 64 or more"),
        ({"arch": "vgg16", "image_size": 31}, "image_size is 31, too small for vgg16"),
        ({"batch_size": 1}, "batch norm .* 1 image of 32 px: one value .*; give a larger"),
        ({"bn_groups": 4}, "batch norm .* 1 image of 32 px: one value"),
        ({"accumulate": 4}, "batch norm .* 1 image of 32 px: one value"),
    ],
)
def test_bad_sizes_and_paths(photographs, tmp_path, changes, words):
    with pytest.raises(UserError, match=words) as caught:
        train(tiny(photographs, **changes), tmp_path / "run")
    assert caught.value.message.count(". ") == 0
    assert not (tmp_path / "run").exists()


def test_missing_masks(photographs, tmp_path, capsys):
    root = tmp_path / "images"
    for path in photographs.images.rglob("*.jpg"):
        for name in (path.name, "new-" + path.name)[: 1 + ("coffee" in path.name)]:
            target = root / path.parent.name / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
    settings = {"images": str(root)}
    with pytest.raises(UserError, match=r"3 of the 15 images .* have no mask .*new-coffee"):
        train(tiny(photographs, **settings), tmp_path / "run")
    train(tiny(photographs, **settings, allow_missing_masks=True, epochs=1), tmp_path / "run")
    assert "Used unpasted: 3 of the 15 images" in capsys.readouterr().out


def test_folder_that_holds_something(photographs, tmp_path):
    train(tiny(photographs, epochs=1), tmp_path / "run")
    with pytest.raises(UserError, match="not empty; go on with --resume"):
        train(tiny(photographs), tmp_path / "run")
    with pytest.raises(UserError, match=r"has epochs = 1, not 2"):
        train(tiny(photographs), tmp_path / "run", resume=True)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").touch()
    for resume in (False, True):
        with pytest.raises(UserError, match="give another folder"):
            train(tiny(photographs), tmp_path / "other", resume=resume)
    (tmp_path / "killed").mkdir()  # while it wrote its first file
    (tmp_path / "killed" / "config.toml.tmp").touch()
    assert train(tiny(photographs, epochs=1), tmp_path / "killed", resume=True).done


def test_resume_with_other_images(photographs, labelled, tmp_path):
    train(tiny(photographs, epochs=1, paste_probability=0), tmp_path / "run")
    settings = tiny(photographs, epochs=1, paste_probability=0, images=str(labelled.images))
    with pytest.raises(UserError, match="does not hold the images"):
        train(settings, tmp_path / "run", resume=True)


def test_resume_with_other_masks_or_backgrounds(photographs, tmp_path, capsys):
    rows = {key: (soft_mask((50, 60), 7), size) for key, size in photographs.sizes.items()}
    write_masks(tmp_path / "other", rows)
    write_masks(tmp_path / "foreign", rows, method="another")
    textures = dict.fromkeys(("a", "b"))
    for number, name in enumerate(textures):
        (tmp_path / name).mkdir()
        Image.new("RGB", (40, 40), (90 * number, 0, 0)).save(tmp_path / name / "1.png")
        textures[name] = {"background": "texture", "background_pool": str(tmp_path / name)}
    run = tmp_path / "run"
    train(tiny(photographs, epochs=1, **textures["a"]), run)
    for changes, told in (
        ({}, None),
        ({"masks": str(tmp_path / "other")}, "begun with other mask pixels;"),
        (textures["b"], "begun with other backgrounds;"),
    ):
        capsys.readouterr()
        train(tiny(photographs, epochs=1, **textures["a"] | changes), run, resume=True)
        said = capsys.readouterr().out
        assert told in said if told else "begun with" not in said
    settings = tiny(photographs, epochs=1, masks=str(tmp_path / "foreign"), **textures["a"])
    with pytest.raises(UserError, match=r"are by another .* begun with masks by test"):
        train(settings, run, resume=True)


def test_second_interrupt_does_not_wait():
    with pytest.raises(KeyboardInterrupt), stop_on_signals() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        assert stop and stop.interrupted
        os.kill(os.getpid(), signal.SIGINT)
