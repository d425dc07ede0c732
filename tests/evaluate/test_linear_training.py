"""Training crops and batches of the linear probe."""

import cv2
import numpy as np
import pytest
import torch
from torchvision.transforms import v2

from data.images.decode import decode
from data.images.labels import Labelled
from data.keys import Keys
from data.loading import Request
from evaluate.labelled import open_labelled
from evaluate.linear_training import TrainingImages, random_crop
from evaluate.models import readable
from evaluate.options import NetworkOptions
from evaluate.protocols import Protocol


def test_training_crop_follows_from_seed_epoch_and_number(tmp_path, write_pictures):
    rng = np.random.default_rng(0)
    write_pictures(tmp_path, {"a.png": rng.integers(0, 255, (40, 40, 3), dtype=np.uint8)})
    labelled = Labelled(tmp_path, Keys(["a.png"]), np.zeros(1, np.int64), ["a"])
    images = TrainingImages(labelled, 16, Protocol())
    before = torch.random.get_rng_state()
    requests = [Request(epoch, np.array([0])) for epoch in (0, 0, 1)]
    first, same, later = (images[request]["image"] for request in requests)
    assert torch.equal(first, same)
    assert not torch.equal(first, later)
    other = TrainingImages(labelled, 16, Protocol(seed=1))
    assert not torch.equal(first, other[requests[0]]["image"])
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.parametrize("shape", [(40, 40), (37, 61), (20, 200)])
def test_training_crop_is_torchvisions(tmp_path, write_pictures, shape):
    picture = np.random.default_rng(1).integers(0, 255, (*shape, 3), dtype=np.uint8)
    write_pictures(tmp_path, {"a.png": picture})
    theirs = v2.Compose(
        [v2.RandomResizedCrop(16, scale=(0.08, 1.0), antialias=True), v2.RandomHorizontalFlip()]
    )
    for seed in range(20):
        torch.manual_seed(seed)
        expected = theirs(torch.from_numpy(picture).permute(2, 0, 1)).permute(1, 2, 0).numpy()
        torch.manual_seed(seed)
        assert np.array_equal(random_crop(str(tmp_path / "a.png"), 16)[0], expected)


def test_training_crop_of_a_large_jpeg_shows_the_same_part(tmp_path):
    y, x = np.mgrid[:600, :800]
    smooth = np.stack([x * 255 / 800, y * 255 / 600, 128 + 60 * np.sin(x / 60)], 2)
    assert cv2.imwrite(str(tmp_path / "a.jpg"), smooth.astype(np.uint8)[..., ::-1])
    picture = decode(tmp_path / "a.jpg").image
    assert cv2.imwrite(str(tmp_path / "a.png"), picture[..., ::-1])  # never reduced
    for seed in range(20):
        crops = []
        for name in ("a.jpg", "a.png"):
            torch.manual_seed(seed)
            crops.append(random_crop(str(tmp_path / name), 32)[0].astype(int))
        assert np.abs(crops[0] - crops[1]).mean() < 2


def test_readable(split_folder):
    path = split_folder / "train" / "red" / "003.png"
    path.write_bytes(path.read_bytes()[:200])
    images = open_labelled(split_folder / "train")
    kept, unreadable = readable(images, NetworkOptions(workers=0))
    assert unreadable.keys() == {"red/003.png"}
    assert set(kept.keys) == set(images.keys) - {"red/003.png"}
    assert np.bincount(kept.labels).tolist() == [12, 12, 11]
