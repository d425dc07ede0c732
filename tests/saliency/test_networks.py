"""`saliency-compute` with methods that compute on a device: masks, resume, bad input."""

import contextlib
import os
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
import torchvision
from click.testing import CliRunner

from data.images.decode import decode
from data.masks.format import Status
from data.masks.read import MaskShards
from saliency.basnet import BASNet, load_basnet, predict
from saliency.basnet.predict import stretch
from saliency.classifier import load_classifier, preprocess
from saliency.cli import main
from saliency.methods.cam import ClassActivation

REPOSITORY = Path(__file__).resolve().parents[2]
SIZES = {"ant": [(70, 50), (50, 70), (64, 64)], "bee": [(40, 90), (500, 300), (33, 47)]}


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Two classes of photographs of many sizes, one gray, one damaged."""
    root = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for name, sizes in SIZES.items():
        (root / name).mkdir()
        for number, (height, width) in enumerate(sizes):
            coarse = rng.integers(0, 256, (5, 5, 3), dtype=np.uint8)
            picture = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
            if number == 2:
                picture = picture[..., :1]
            cv2.imwrite(str(root / name / f"{number}.png"), picture)
    (root / "bee" / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 no more")
    return root


@pytest.fixture(scope="module")
def basnet(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "basnet.pth"
    torch.save(BASNet(width=1 / 32).state_dict(), path)
    return path


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "resnet18.pth"
    torch.save(torchvision.models.resnet18(num_classes=2).state_dict(), path)
    return path


def compute(*arguments):
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def run_basnet(images, out, weights, *more):
    options = ("--method", "basnet", "--weights", weights, "--input-size", 32, "--device", "cpu")
    return compute(images, out, *options, "--jobs", 1, "--max-failures", 1, *more)


def test_masks_are_the_predictions(images, basnet, tmp_path):
    done = run_basnet(images, tmp_path / "out", basnet, "--batch-size", 4)
    assert done.exit_code == 0, done.output
    assert "waited for images" in done.output
    shards = MaskShards(tmp_path / "out")
    assert shards.method == "basnet" and len(shards) == 7
    assert shards.parameters["input_size"] == 32
    assert shards.parameters["precision"] == "float32"
    assert len(shards.parameters["weights_sha256"]) == 64
    network = load_basnet(basnet)
    for key in shards.keys:
        if key == "bee/broken.jpg":
            assert shards.status(key) == Status.UNREADABLE and shards.error(key)
            continue
        image = decode(images / key).image
        expected = next(predict([image], network, 32))
        mask = shards.read(key)
        if max(image.shape) <= 400:
            assert mask.shape == image.shape[:2]
            np.testing.assert_allclose(mask, expected * 255, atol=1)
        else:
            assert mask.shape == (400, 240)
        assert tuple(shards.image_size(key)) == image.shape[:2]
        assert mask.max() > 200 and mask.min() < 50


def test_any_batch_size_and_number_of_workers_gives_the_same(images, basnet, tmp_path):
    masks = []
    for number, options in enumerate([("--batch-size", 1), ("--jobs", 2), ("--batch-size", 3)]):
        done = run_basnet(images, tmp_path / str(number), basnet, *options)
        assert done.exit_code == 0, done.output
        shards = MaskShards(tmp_path / str(number))
        masks.append([shards.read(k) for k in shards.keys if k != "bee/broken.jpg"])
    for other in masks[1:]:
        for a, b in zip(masks[0], other, strict=True):
            np.testing.assert_allclose(a.astype(int), b, atol=1)


def test_parts_and_resume_do_only_what_is_missing(images, basnet, tmp_path):
    out = tmp_path / "out"
    for part in ("1/2", "2/2"):
        done = run_basnet(images, out, basnet, "--shard-size", 3, "--part", part)
        assert done.exit_code == 0, done.output
    assert sorted(p.name for p in out.glob("shard-*")) == [f"shard-0000{i}.h5" for i in range(3)]
    untouched = (out / "shard-00000.h5").stat().st_mtime_ns
    mask = MaskShards(out).read("bee/0.png")
    (out / "shard-00001.h5").unlink()
    done = run_basnet(images, out, basnet, "--shard-size", 3)
    assert "2 shards were there already" in done.output
    assert (out / "shard-00000.h5").stat().st_mtime_ns == untouched
    np.testing.assert_array_equal(MaskShards(out).read("bee/0.png"), mask)


def test_other_weights_do_not_mix(images, basnet, tmp_path):
    assert run_basnet(images, tmp_path / "out", basnet).exit_code == 0
    other = tmp_path / "other.pth"
    torch.save(BASNet(width=1 / 32).state_dict(), other)
    done = run_basnet(images, tmp_path / "out", other)
    assert done.exit_code == 2 and "weights_sha256" in done.output


def test_no_cap_keeps_the_image_size(images, basnet, tmp_path):
    assert run_basnet(images, tmp_path / "out", basnet, "--max-side", 0).exit_code == 0
    assert MaskShards(tmp_path / "out").read("bee/1.png").shape == (500, 300)


def test_infinite_outputs_are_failed_rows(images, tmp_path):
    weights = BASNet(width=1 / 32).state_dict()
    weights["refunet.conv_d0.bias"] = torch.tensor([float("nan")])
    torch.save(weights, tmp_path / "nan.pth")
    done = run_basnet(images, tmp_path / "out", tmp_path / "nan.pth")
    assert done.exit_code == 0 and "not finite" in done.output
    assert MaskShards(tmp_path / "out").status("ant/0.png") == Status.FAILED


def test_constant_maps_are_flat_rows(images, tmp_path):
    weights = {k: torch.zeros_like(v) for k, v in BASNet(width=1 / 32).state_dict().items()}
    torch.save(weights, tmp_path / "zero.pth")
    assert run_basnet(images, tmp_path / "out", tmp_path / "zero.pth").exit_code == 0
    shards = MaskShards(tmp_path / "out")
    assert shards.status("ant/0.png") == Status.FLAT and not shards.read("ant/0.png").any()


def test_cam_masks_are_the_stretched_maps(images, classifier, tmp_path):
    done = compute(
        images, tmp_path / "out", "--method", "cam", "--weights", classifier, "--input-size", 64,
        "--labels", "folder", "--device", "cpu", "--jobs", 1, "--max-failures", 1,
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    shards = MaskShards(tmp_path / "out")
    assert shards.parameters["arch"] == "resnet18" and shards.parameters["labels"] == "folder"
    network, _ = load_classifier(classifier)
    for key, label in (("ant/2.png", 0), ("bee/0.png", 1)):
        image = decode(images / key).image
        x = torch.from_numpy(preprocess(image, 64))[None]
        cam = stretch(ClassActivation(network)(x, torch.tensor([label]))[0].numpy())[0]
        size = image.shape[1], image.shape[0]
        expected = cv2.resize(cam, size, interpolation=cv2.INTER_LINEAR)
        np.testing.assert_allclose(shards.read(key), expected * 255, atol=1)


def test_gradient_makes_masks(images, classifier, tmp_path):
    done = compute(
        images, tmp_path / "out", "--method", "gradient", "--weights", classifier,
        "--input-size", 64, "--device", "cpu", "--jobs", 1, "--max-failures", 1,
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    shards = MaskShards(tmp_path / "out")
    assert shards.parameters["labels"] == "predicted"
    masks = [shards.read(key) for key in shards.keys if key != "bee/broken.jpg"]
    assert all(mask.dtype == np.uint8 for mask in masks)
    assert sum(mask.max() == 255 for mask in masks) >= 4


@pytest.mark.parametrize("method", ["basnet", "cam", "gradient"])
def test_bfloat16_makes_nearly_the_masks_of_float32(images, basnet, classifier, tmp_path, method):
    masks = []
    for precision in ("float32", "bf16"):
        done = compute(
            images, tmp_path / precision, "--method", method, "--precision", precision,
            "--weights", basnet if method == "basnet" else classifier, "--input-size", 64,
            "--device", "cpu", "--jobs", 1, "--max-failures", 1,
        )  # fmt: skip
        assert done.exit_code == 0, done.output
        shards = MaskShards(tmp_path / precision)
        masks.append(np.concatenate([shards.read(k).ravel() for k in shards.keys if ".png" in k]))
    assert shards.parameters["precision"] == "bfloat16"
    assert np.corrcoef(*masks)[0, 1] > 0.9


def complaint(done) -> str:
    assert done.exit_code == 2, done.output
    lines = done.output.strip().splitlines()
    assert lines[-1].startswith("Error: ") and "Traceback" not in done.output
    return lines[-1]


def test_bad_arguments_get_a_sentence(images, basnet, classifier, tmp_path):
    out = tmp_path / "out"

    def told(*options):
        return complaint(compute(images, out, *options))

    assert "--method basnet needs --weights" in told("--method", "basnet")
    assert "there is no such file" in told("--method", "basnet", "--weights", tmp_path / "no.pth")
    assert "not a BASNet checkpoint" in told("--method", "basnet", "--weights", classifier)
    assert "fits none" in told("--method", "cam", "--weights", basnet)
    assert "not a resnet18" in told("--method", "cam", "--weights", basnet, "--arch", "resnet18")
    assert "--weights does not belong to --method rbd" in told("--weights", basnet)
    assert "--superpixels does not" in told("--method", "basnet", "--superpixels", "250")
    assert "--labels does not" in told("--method", "basnet", "--labels", "folder")
    assert "goes alone" in told("--method", "rbd,basnet")
    assert "fp16 needs a GPU" in told(
        "--method", "basnet", "--weights", basnet, "--precision", "fp16", "--device", "cpu"
    )
    if not torch.cuda.is_available():
        options = ("--method", "basnet", "--weights", basnet, "--device", "cuda")
        assert "finds no GPU here" in told(*options)
    options = ("--method", "cam", "--weights", classifier, "--labels", "folder")
    for name in "abc":
        (tmp_path / "three" / name).mkdir(parents=True)
        cv2.imwrite(str(tmp_path / "three" / name / "1.png"), np.zeros((9, 9, 3), np.uint8))
    sentence = complaint(compute(tmp_path / "three", out, *options))
    assert "3 class folders and the network knows 2" in sentence
    assert not list(out.glob("*")) if out.exists() else True


def test_memory_too_small_for_the_batch(images, basnet, tmp_path, monkeypatch):
    def exhausted(self, x):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(BASNet, "forward", exhausted)
    done = run_basnet(images, tmp_path / "out", basnet, "--batch-size", 8)
    sentence = complaint(done)
    assert "the memory is exhausted (CUDA out of memory); use a smaller --batch-size" in sentence
    assert not list((tmp_path / "out").glob("*shard*"))


@pytest.fixture
def many(images, tmp_path):
    folder = tmp_path / "many"
    folder.mkdir()
    for number in range(400):
        (folder / f"{number}.png").symlink_to(images / "ant" / "0.png")
    return folder


def start(images, out, weights, *more):
    """The command in a process group of its own."""
    command = [
        sys.executable, "-m", "saliency", images, out, "--method", "basnet", "--weights", weights,
        "--input-size", "32", "--jobs", "2", "--device", "cpu", "--batch-size", "8", *more,
    ]  # fmt: skip
    return subprocess.Popen(
        command, cwd=REPOSITORY, stderr=subprocess.PIPE, text=True, start_new_session=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def test_killed_worker_gets_a_sentence(many, basnet, tmp_path):
    process = start(many, tmp_path / "out", basnet, "--input-size", "160")
    deadline = time.monotonic() + 60
    workers = []
    while len(workers) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
        with contextlib.suppress(psutil.Error):  # of a child that has just ended
            children = psutil.Process(process.pid).children()
            workers = [c for c in children if "basnet" in c.cmdline()]  # forks keep the command
    workers[0].kill()
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1 and "Traceback" not in errors
    assert errors.splitlines()[-1].startswith("Error: a loading process was killed")
    assert not list((tmp_path / "out").glob("*shard*"))


def test_sigterm_to_all_processes_keeps_finished_shards(many, basnet, tmp_path):
    process = start(many, tmp_path / "out", basnet, "--shard-size", "8")
    deadline = time.monotonic() + 60
    while not list((tmp_path / "out").glob("shard-*")) and time.monotonic() < deadline:
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    made = len(list((tmp_path / "out").glob("shard-*")))
    assert process.returncode == 143, errors
    assert "Finished shards are kept" in errors and "Traceback" not in errors
    assert 0 < made < 50
    again = start(many, tmp_path / "out", basnet, "--shard-size", "8")
    _, errors = again.communicate(timeout=120)
    assert again.returncode == 0, errors
    assert len(MaskShards(tmp_path / "out")) == 400
