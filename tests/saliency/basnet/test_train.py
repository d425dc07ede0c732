"""Training: data, exact resume, signals, what it leaves behind, and mistakes."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import psutil
import pytest
import torch
from click.testing import CliRunner

from data.errors import UserError
from data.loading import Request
from data.masks.precision_recall import normalise
from data.metrics import read_metrics
from data.run import checkpoints
from saliency.basnet import BASNet, Predictor, load_basnet
from saliency.basnet.dataset import TrainingPairs, list_pairs, read_image, read_truth
from saliency.basnet.network import load_encoder
from saliency.basnet.train import main
from saliency.basnet.validation import validate

REPOSITORY = Path(__file__).resolve().parents[3]
SMALL = (
    "--from-scratch", "--width", "0.03125", "--resize", "40", "--crop", "32", "--batch-size", "4",
    "--workers", "0", "--device", "cpu",
)  # fmt: skip


@pytest.fixture(scope="module")
def duts(tmp_path_factory):
    """Discs on noise, as DUTS is unpacked: a task that even a tiny network learns."""
    root = tmp_path_factory.mktemp("DUTS-TR")
    (root / "DUTS-TR-Image").mkdir()
    (root / "DUTS-TR-Mask").mkdir()
    rng = np.random.default_rng(0)
    for number in range(14):
        height, width = rng.integers(50, 70, 2)
        rows, columns = np.mgrid[:height, :width]
        centre = rng.uniform(0.35, 0.65, 2) * (height, width)
        disc = (rows - centre[0]) ** 2 + (columns - centre[1]) ** 2 < 15**2
        picture = rng.integers(0, 90, (height, width, 3)) + disc[..., None] * 150
        cv2.imwrite(str(root / "DUTS-TR-Image" / f"{number:02d}.jpg"), picture.astype(np.uint8))
        cv2.imwrite(str(root / "DUTS-TR-Mask" / f"{number:02d}.png"), disc.astype(np.uint8) * 255)
    return root


def epochs_of(run):
    return [line for line in read_metrics(run / "metrics.jsonl") if "epoch_loss" in line]


def train(*arguments):
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_duts_layout_and_any_two_folders_pair_alike(duts):
    pairs = list_pairs(duts)
    assert [pair.name for pair in pairs] == [f"{i:02d}" for i in range(14)]
    assert pairs == list_pairs(duts / "DUTS-TR-Image", duts / "DUTS-TR-Mask")
    image, mask = read_image(pairs[3]), read_truth(pairs[3])
    assert image.shape[:2] == mask.shape and set(np.unique(mask)) == {0, 255}


def sample(data, epoch, index):
    inputs, targets = data[Request(epoch, np.array([index]))]
    return inputs[0], targets[0]


def test_samples_depend_on_seed_epoch_and_index_only(duts):
    pairs = list_pairs(duts)
    data = TrainingPairs(pairs, 40, 32, seed=1)
    again = TrainingPairs(pairs, 40, 32, seed=1)
    for item in ((0, 3), (5, 3), (0, 4)):
        for a, b in zip(sample(data, *item), sample(again, *item), strict=True):
            assert torch.equal(a, b)
    assert not torch.equal(sample(data, 0, 3)[0], sample(data, 1, 3)[0])
    several, _ = data[Request(0, np.array([4, 3]))]
    inputs, target = sample(data, 0, 3)
    assert torch.equal(several[1], inputs)
    assert inputs.shape == (3, 32, 32) and target.shape == (1, 32, 32)
    assert inputs.dtype == target.dtype == torch.float32
    assert set(target.unique().tolist()) == {0.0, 1.0}


def test_photograph_and_truth_are_cropped_and_flipped_alike(duts):
    """The disc is bright, so the truth can be read off the photograph."""
    data = TrainingPairs(list_pairs(duts), 40, 32)
    for epoch in range(8):
        inputs, target = sample(data, epoch, 2)
        bright = inputs.mean(0) > inputs.mean(0)[target[0] == 1].mean() - 1
        assert (bright == (target[0] > 0)).float().mean() > 0.93


def test_flips_and_crops_vary(duts):
    data = TrainingPairs(list_pairs(duts), 40, 32)
    targets = [sample(data, epoch, 0)[1][0].numpy() for epoch in range(12)]
    tops = {tuple(np.argwhere(target).mean(0).round(1)) for target in targets}
    assert len(tops) > 8


def test_validation_equals_the_benchmarks_definition(duts):
    torch.manual_seed(0)
    predictor = Predictor(BASNet(width=1 / 32), batch_size=4)
    pairs = list_pairs(duts)[:5]
    curve, mae = validate(predictor, pairs, 32)
    from saliency.basnet import predict

    precision, recall, error = [], [], []
    for pair in pairs:
        image, mask = read_image(pair), read_truth(pair)
        saliency = np.rint(255 * next(predict([image], predictor, 32))).astype(np.uint8)
        level, truth = normalise(saliency), mask > 128
        chosen = [level >= t for t in range(256)]
        precision.append([(c & truth).sum() / max(c.sum(), 1) for c in chosen])
        recall.append([(c & truth).sum() / truth.sum() for c in chosen])
        error.append(np.abs(level / 255 - truth).mean())
    p, r = np.mean(precision, 0), np.mean(recall, 0)
    with np.errstate(invalid="ignore"):
        expected = np.nanmax(1.3 * p * r / (0.3 * p + r))
    assert abs(curve.max_f - expected) < 1e-6 and abs(mae - np.mean(error)) < 1e-6


def test_training_learns_and_leaves_its_results(duts, tmp_path):
    run = tmp_path / "run"
    options = (*SMALL, "--hold-out", 4, "--width", 0.0625, "--lr", 0.003)
    done = train(duts, "--out", run, *options, "--epochs", 12, "--validate-every", 6)
    assert done.exit_code == 0, done.output
    rows = epochs_of(run)
    losses = [row["epoch_loss"] for row in rows]
    assert len(rows) == 12 and losses[-1] < 0.9 * losses[0]
    assert ["max_f" in row for row in rows] == [i % 6 == 5 for i in range(12)]
    best = max(row["max_f"] for row in rows if "max_f" in row)
    curve, _ = validate(Predictor(load_basnet(run / "best.pth")), list_pairs(duts)[10:], 40)
    assert abs(curve.max_f - best) < 1e-6
    height, width, _ = cv2.imread(str(run / "predictions" / "epoch-0012.png")).shape
    assert height > 4 * 80 and width > 3 * 160  # of four photographs; three columns
    assert cv2.imread(str(run / "curves.png")) is not None
    assert load_basnet(run / "last.pth").inconv.out_channels == 4
    again = train(duts, "--out", run, *options, "--epochs", 12)
    assert again.exit_code == 2 and "is not empty; go on with --resume" in again.output


def test_files_of_others_are_not_touched(duts, tmp_path):
    out = tmp_path / "weights"
    out.mkdir()
    (out / "best.pth").write_text("mine")
    done = train(duts, "--out", out, "--from-scratch", "--width", 0.0625, "--epochs", 1)
    assert done.exit_code == 2 and "is not empty; give another folder" in done.output
    assert (out / "best.pth").read_text() == "mine" and len(list(out.iterdir())) == 1


class StopAfter:
    """Sends this process SIGTERM after some training steps."""

    def __init__(self, monkeypatch, steps):
        from saliency.basnet import trainer

        self.left = steps
        original = trainer.Trainer._train_step

        def step(*arguments):
            loss = original(*arguments)
            self.left -= 1
            if self.left == 0:
                os.kill(os.getpid(), signal.SIGTERM)
            return loss

        monkeypatch.setattr(trainer.Trainer, "_train_step", step)


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
def test_resumed_run_equals_an_uninterrupted_one(duts, tmp_path, monkeypatch, schedule):
    options = (duts, *SMALL, "--epochs", 3, "--hold-out", 2, "--schedule", schedule)
    options = (*options, "--validate-every", 1)
    assert train(*options, "--out", tmp_path / "whole").exit_code == 0
    with monkeypatch.context() as patch:
        StopAfter(patch, 4)  # in the middle of the second epoch of three steps
        stopped = train(*options, "--out", tmp_path / "parts")
    assert stopped.exit_code == 0 and "stopped and saved after step 4" in stopped.output
    done = train(*options, "--out", tmp_path / "parts", "--resume")
    assert done.exit_code == 0 and "goes on after step 4" in done.output
    whole, parts = (torch.load(tmp_path / n / "last.pth") for n in ("whole", "parts"))
    assert all(torch.equal(whole[key], parts[key]) for key in whole)
    whole, parts = (epochs_of(tmp_path / name) for name in ("whole", "parts"))
    assert len(whole) == 3 and whole == parts
    assert all(0 <= row["max_f"] <= 1 and 0 <= row["mae"] <= 1 for row in whole)


def test_damaged_checkpoint_is_skipped(duts, tmp_path):
    options = (duts, *SMALL, "--out", tmp_path / "run")
    assert train(*options, "--epochs", 2).exit_code == 0
    newest = checkpoints(tmp_path / "run" / "checkpoints")[-1][1]
    newest.write_bytes(newest.read_bytes()[:1000])
    done = train(*options, "--epochs", 3, "--resume")
    assert done.exit_code == 0, done.output
    assert "goes on after step 3" in done.output and "is skipped" in done.output


def test_resume_of_nothing_starts(duts, tmp_path):
    done = train(duts, *SMALL, "--out", tmp_path / "new", "--epochs", 1, "--resume")
    assert done.exit_code == 0 and "starts on cpu" in done.output


def run_alone(*arguments):
    """The command in a process group of its own."""
    command = [sys.executable, "-m", "saliency.basnet.train", *map(str, arguments)]
    return subprocess.Popen(
        command, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def run_to_first_checkpoint(duts, out):
    """A training that goes on, of which a checkpoint is there."""
    process = run_alone(duts, "--out", out, *SMALL, "--workers", 1, "--epochs", 1000)
    deadline = time.monotonic() + 60
    while not checkpoints(out / "checkpoints") and time.monotonic() < deadline:
        time.sleep(0.05)
    return process


def test_killed_worker_gets_a_sentence(duts, tmp_path):
    process = run_to_first_checkpoint(duts, tmp_path / "run")
    killed, deadline = False, time.monotonic() + 60
    while not killed and time.monotonic() < deadline:
        with contextlib.suppress(psutil.Error):  # of a child that has just ended
            for child in psutil.Process(process.pid).children():
                if "saliency.basnet.train" in child.cmdline():  # forks keep the command
                    child.kill()
                    killed = True
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1 and "Traceback" not in errors, errors
    sentence = errors.splitlines()[-1]
    assert sentence.startswith("Error: a loading process was killed") and "--resume" in sentence


def test_sigterm_to_all_processes_saves(duts, tmp_path):
    process = run_to_first_checkpoint(duts, tmp_path / "run")
    os.killpg(process.pid, signal.SIGTERM)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    assert "--resume goes on from there" in output and "Traceback" not in errors


def complaint(*arguments) -> str:
    done = train(*arguments)
    assert done.exit_code == 2, done.output
    lines = done.output.strip().splitlines()
    assert lines[-1].startswith("Error: ")
    return lines[-1]


def test_mistakes_get_a_sentence(duts, tmp_path):
    out = ("--out", tmp_path / "run")
    images = duts / "DUTS-TR-Image"
    assert "there is no folder" in complaint(duts / "none", "--masks", images, *out, *SMALL)
    assert "no folders <name>-Image and <name>-Mask" in complaint(images, *out, *SMALL)
    assert "--crop 64 is larger than --resize 40" in complaint(duts, *out, *SMALL, "--crop", 64)
    assert "add --from-scratch" in complaint(duts, *out, *SMALL[1:])
    assert "leaves none" in complaint(duts, *out, *SMALL, "--hold-out", 14)
    one = (*out, *SMALL, "--crop", 32, "--batch-size", 1)
    assert "--batch-size 1 needs a --crop above 32" in complaint(duts, *one)
    assert not (tmp_path / "run").exists()
    assert "is more than the 2" in complaint(duts, *out, *SMALL, "--hold-out", 12)
    assert "one of the two" in complaint(duts, *out, *SMALL, "--hold-out", 2, "--val", duts)
    (tmp_path / "masks").mkdir()
    for path in (duts / "DUTS-TR-Mask").glob("*.png"):
        if path.stem != "05":
            (tmp_path / "masks" / path.name).symlink_to(path)
    sentence = complaint(images, "--masks", tmp_path / "masks", *out, *SMALL)
    assert "1 of 14 photographs have no ground truth" in sentence and "'05'" in sentence
    (tmp_path / "masks" / "05.png").write_bytes(b"no picture")
    sentence = complaint(images, "--masks", tmp_path / "masks", *out, *SMALL, "--epochs", 1)
    assert "the pair '05'" in sentence
    again = (*SMALL, "--epochs", 1, "--workers", 1, "--resume")
    process = run_alone(images, "--masks", tmp_path / "masks", *out, *again)
    errors = process.communicate(timeout=60)[1]
    assert process.returncode == 2 and "Traceback" not in errors
    assert errors.splitlines()[-1].startswith("Error: the pair '05'")
    (tmp_path / "file").touch()
    assert "is a file; give a folder" in complaint(duts, "--out", tmp_path / "file", *SMALL)
    told = complaint(duts, "--out", tmp_path / "a", *SMALL, "--lr", 1e30)
    assert told.count("the loss of step") == 1


def test_resume_with_other_settings_is_refused(duts, tmp_path):
    out = ("--out", tmp_path / "run")
    assert train(duts, *out, *SMALL, "--epochs", 1).exit_code == 0
    sentence = complaint(duts, *out, *SMALL, "--resume", "--lr", 0.01)
    assert "has lr = 0.001, not 0.01" in sentence
    sentence = complaint(duts, *out, *SMALL, "--resume", "--hold-out", 3)
    assert "has hold_out = 0, not 3" in sentence
    same = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    masks = tmp_path / "masks"
    shutil.copytree(duts / "DUTS-TR-Mask", masks)
    images = tmp_path / "images"
    shutil.copytree(duts / "DUTS-TR-Image", images)
    for path in (images / "03.jpg", masks / "03.png"):
        path.rename(path.with_stem("new"))
    sentence = complaint(images, "--masks", masks, *out, *SMALL, "--resume")
    assert "the photographs are not those" in sentence
    assert all(path.read_bytes() == content for path, content in same.items())


def test_run_of_an_earlier_version_is_refused(duts, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    (run / "settings.json").write_text("{}")
    torch.save({"settings": {}, "network": {}}, run / "checkpoint-00000003.pt")
    sentence = complaint(duts, "--out", run, *SMALL, "--resume")
    assert "holds files, and no run to resume; give another folder" in sentence
    assert len(list(run.iterdir())) == 2


def test_resume_needs_no_settings_again(duts, tmp_path):
    out = ("--out", tmp_path / "run")
    assert train(duts, *out, *SMALL, "--epochs", 1).exit_code == 0
    done = train(duts, *out, "--resume", "--epochs", 2, "--workers", 0, "--device", "cpu")
    assert done.exit_code == 0 and "goes on after step 3" in done.output
    assert len(epochs_of(tmp_path / "run")) == 2


def test_memory_too_small_for_the_batch(duts, tmp_path, monkeypatch):
    def exhausted(self, x):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(BASNet, "logits", exhausted)
    sentence = complaint(duts, "--out", tmp_path / "run", *SMALL)
    assert "the memory is exhausted (CUDA out of memory); use a smaller --batch-size" in sentence


def test_encoder_starts_from_a_resnet34(tmp_path):
    import torchvision

    torch.manual_seed(0)
    resnet = torchvision.models.resnet34()
    torch.save(resnet.state_dict(), tmp_path / "resnet34.pth")
    network = BASNet()
    load_encoder(network, tmp_path / "resnet34.pth")
    for stage in range(1, 5):
        theirs = getattr(resnet, f"layer{stage}").state_dict()
        ours = getattr(network, f"encoder{stage}").state_dict()
        assert list(ours) == list(theirs)
        assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
    torch.save(torchvision.models.resnet18().state_dict(), tmp_path / "resnet18.pth")
    with pytest.raises(UserError, match=r"--encoder-weights .* does not fit \(\d+ missing"):
        load_encoder(network, tmp_path / "resnet18.pth")
