"""Crops and batches of the probes."""

import numpy as np
import pytest
import torch

from evaluate.loading import EpochBatches, TrainingImages, centre_crop, normalise, train_crop


def test_centre_crop_is_the_centre_of_the_resized_image():
    image = torch.zeros(3, 512, 768, dtype=torch.uint8)
    image[:, 256 - 220 : 256 + 220, 384 - 220 : 384 + 220] = 255  # within the crop of 448 of 512
    crop = centre_crop(224)(image)
    assert crop.shape == (3, 224, 224)
    assert (crop[:, 3:-3, 3:-3] == 255).all()
    assert (crop[:, 0] == 0).all()


def test_normalise_is_imagenets():
    white = normalise(torch.full((1, 3, 2, 2), 255, dtype=torch.uint8))
    np.testing.assert_allclose(white[0, :, 0, 0], [2.2489, 2.4286, 2.64], atol=1e-4)


def test_training_crop_follows_from_seed_epoch_and_number(tmp_path, write_pictures):
    rng = np.random.default_rng(0)
    write_pictures(tmp_path, {"a.png": rng.integers(0, 255, (40, 40, 3), dtype=np.uint8)})
    images = TrainingImages(tmp_path, ["a.png"], train_crop(16), seed=0)
    before = torch.random.get_rng_state()
    first, same = images[0, 0][1], images[0, 0][1]
    assert torch.equal(first, same)
    assert not torch.equal(first, images[1, 0][1])
    other = TrainingImages(tmp_path, ["a.png"], train_crop(16), seed=1)
    assert not torch.equal(first, other[0, 0][1])
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.parametrize(
    ("count", "batch", "size"), [(10, 4, 1), (10, 4, 2), (11, 4, 4), (3, 8, 2)]
)
def test_processes_share_every_step(count, batch, size):
    shares = [list(EpochBatches(count, batch, 0, rank, size)) for rank in range(size)]
    steps = {len(share) for share in shares}
    assert steps == {len(EpochBatches(count, batch, 0))}
    for step in zip(*shares, strict=True):
        assert len({len(part) for part in step}) == 1  # all have the same number of images
    seen = [number for share in shares for part in share for _, number in part]
    assert set(seen) == set(range(count))
    assert len(seen) - count < size


def test_order_changes_with_the_epoch_alone():
    batches = EpochBatches(20, 5, seed=3)
    first = list(batches)
    assert list(batches) == first
    batches.epoch = 1
    assert [n for b in batches for _, n in b] != [n for b in first for _, n in b]
