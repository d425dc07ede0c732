"""Centre crops with labels, against torchvision; unreadable images are left out and told."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
import skimage.data
import torch
from PIL import Image
from torchvision.transforms import v2

from data.errors import UserError, errors_told
from data.images.decode import list_images
from data.images.labels import labels_from_folders, splits_of
from data.keys import Keys
from data.loading import build_plain_loader, normalise, unreadable_of


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("classes")
    for number, size in enumerate([(400, 300), (300, 400), (256, 256), (90, 60), (350, 263)]):
        path = root / ("cat", "dog")[number % 2] / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(skimage.data.astronaut()).resize(size).save(path)
    return root


@pytest.mark.parametrize("workers", [0, 2])
def test_crops_are_torchvisions(folder, workers):
    keys = list_images(folder)
    plain = v2.Compose([v2.Resize(73, antialias=True), v2.CenterCrop(64)])
    loader = build_plain_loader(folder, image_size=64, batch_size=2, workers=workers)
    assert len(loader) == 3
    seen = []
    for batch in loader:
        for index, image in zip(batch["index"].tolist(), batch["image"], strict=True):
            whole = torch.from_numpy(np.array(Image.open(folder / keys[index])))
            theirs = plain(whole.permute(2, 0, 1)).permute(1, 2, 0)
            assert torch.equal(image, theirs)
            seen.append(index)
    assert seen == list(range(5))


@pytest.mark.parametrize("workers", [0, 1])
def test_unreadable_images_are_left_out_and_told(folder, tmp_path, workers):
    (tmp_path / "a").mkdir()
    for name in ("0.png", "1: .png", "2.png"):
        (tmp_path / "a" / name).write_bytes((folder / "cat" / "0.png").read_bytes())
    (tmp_path / "a" / "1: .png").write_bytes(b"")
    (batch,) = build_plain_loader(tmp_path, image_size=8, labels=[5, 6, 7], workers=workers)
    assert batch["index"].tolist() == [0, 2] and batch["label"].tolist() == [5, 7]
    assert batch["image"].shape == (2, 8, 8, 3)
    assert unreadable_of(batch) == {"a/1: .png": "empty file"}


def test_full_shared_memory_is_a_sentence(folder, monkeypatch):
    """PyTorch alone would wait indefinitely: the thread that sends a batch fails unheard."""

    def full(size):
        raise RuntimeError("unable to allocate shared memory(shm) for file </x>: No space left")

    monkeypatch.setattr(torch.UntypedStorage, "_new_shared", full)
    with pytest.raises(UserError, match=r"^the shared memory is full .*--shm-size"), errors_told():
        next(iter(build_plain_loader(folder, image_size=8, workers=1)))


def test_a_batch_is_made_in_shared_memory(folder):
    for batch in build_plain_loader(folder, image_size=8, workers=1, labels=range(5)):
        for name in ("image", "index", "label"):
            assert batch[name].is_shared()


def test_indices_choose_and_order(folder):
    batches = list(build_plain_loader(folder, image_size=8, batch_size=2, indices=[4, 1, 0]))
    assert [batch["index"].tolist() for batch in batches] == [[4, 1], [0]]


def test_normalise_is_torchvisions():
    pixels = torch.randint(0, 256, (2, 5, 5, 3), dtype=torch.uint8)
    theirs = v2.functional.normalize(
        pixels.permute(0, 3, 1, 2) / 255, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    )
    ours = normalise(pixels)
    torch.testing.assert_close(ours, theirs)
    assert ours.is_contiguous(memory_format=torch.channels_last)


def test_labels_are_the_first_folders_in_order():
    keys = Keys(["b/x/1.jpg", "a/1.jpg", "a b/2.jpg", "b/0.jpg"])
    names, labels = labels_from_folders(keys)
    assert names == ["a", "a b", "b"]
    assert {key: names[label] for key, label in zip(keys, labels, strict=True)} == {
        "b/x/1.jpg": "b",
        "a/1.jpg": "a",
        "a b/2.jpg": "a b",
        "b/0.jpg": "b",
    }


@pytest.mark.parametrize("names", [["1.jpg", "a/2.jpg"], ["a/1.jpg", "a/2.jpg"], []])
def test_no_labels_without_class_folders(names):
    assert labels_from_folders(Keys(names)) is None


@pytest.mark.parametrize("folders", [["train", "val"], ["Train", "test", "validation"]])
def test_splits_are_no_classes(folders):
    keys = Keys([f"{folder}/{name}/{i}.png" for folder in folders for name in "ab" for i in "12"])
    assert labels_from_folders(keys) is None
    assert splits_of(keys) == sorted(folders)
    assert splits_of(Keys(["train/1.png", "tram/1.png"])) == []
    assert labels_from_folders(Keys(["train/1.png", "tram/1.png"])).class_names == ["train", "tram"]


def test_workers_outlive_a_signal_to_every_process(folder):
    """As a cluster's SIGTERM and a terminal's Ctrl-C are; the main process decides."""
    expected = [batch["index"].tolist() for batch in build_plain_loader(folder, batch_size=1)]
    before = set(multiprocessing.active_children())
    found = []
    for batch in build_plain_loader(folder, batch_size=1, workers=1):
        if not found:
            (worker,) = set(multiprocessing.active_children()) - before
            os.kill(worker.pid, signal.SIGTERM)
            os.kill(worker.pid, signal.SIGINT)
        found.append(batch["index"].tolist())
    assert found == expected
    worker.join(20)
    assert worker.exitcode == 0


def test_a_program_that_leaves_a_loader_half_read_ends(folder):
    program = f"""
from data.loading import build_plain_loader
batches = iter(build_plain_loader({str(folder)!r}, image_size=16, batch_size=1, workers=1))
next(batches)
raise SystemExit(3)
"""
    assert subprocess.run([sys.executable, "-c", program], timeout=60).returncode == 3


def test_cores_are_those_that_the_surroundings_grant():
    program = "from data.processes import usable_cores; print(usable_cores())"
    granted = {**os.environ, "LOKY_MAX_CPU_COUNT": "1"}  # joblib reads affinity and quotas alike
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=granted, check=True
    )
    assert done.stdout.strip() == "1"
