"""Training crops and batches of the linear probe."""

import numpy as np
import pytest
import torch

from data.keys import Keys
from evaluate.loading import EpochBatches, TrainingImages, train_crop


def test_training_crop_follows_from_seed_epoch_and_number(tmp_path, write_pictures):
    rng = np.random.default_rng(0)
    write_pictures(tmp_path, {"a.png": rng.integers(0, 255, (40, 40, 3), dtype=np.uint8)})
    images = TrainingImages(tmp_path, Keys(["a.png"]), train_crop(16), seed=0)
    before = torch.random.get_rng_state()
    first, same = images[0, 0][1], images[0, 0][1]
    assert torch.equal(first, same)
    assert not torch.equal(first, images[1, 0][1])
    other = TrainingImages(tmp_path, Keys(["a.png"]), train_crop(16), seed=1)
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
