"""The memory bank, by hand."""

import math

import torch

from pretrain.parts.memory_bank import MemoryBank


def test_starts_uniform_as_the_authors():
    vectors = MemoryBank(4000, 128).vectors
    s = 1 / math.sqrt(128 / 3)
    assert vectors.dtype == torch.float32 and vectors.shape == (4000, 128)
    assert -s <= vectors.min() < -0.999 * s and 0.999 * s < vectors.max() <= s
    assert abs(vectors.mean()) < 1e-3
    assert abs((vectors**2).sum(1).mean() - 1) < 0.01  # unit length on average
    assert torch.equal(vectors, MemoryBank(4000, 128).vectors)
    assert not torch.equal(vectors, MemoryBank(4000, 128, seed=1).vectors)


def test_update_by_hand():
    bank = MemoryBank(3, 2)
    bank.vectors.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]]))
    bank.update(torch.tensor([2, 0]), torch.tensor([[0.8, 0.6], [0.0, 1.0]]))
    half = math.sqrt(0.5)
    # row 2: (.7, .7) / |.|; row 0: (.5, .5) / |.|; row 1 untouched
    expected = torch.tensor([[half, half], [0.0, 1.0], [half, half]])
    torch.testing.assert_close(bank.vectors, expected)


def test_momentum_is_the_share_of_the_old():
    bank = MemoryBank(1, 2, momentum=0.75)
    bank.vectors.copy_(torch.tensor([[1.0, 0.0]]))
    bank.update(torch.tensor([0]), torch.tensor([[0.0, 1.0]], dtype=torch.bfloat16))
    length = math.hypot(0.75, 0.25)
    torch.testing.assert_close(bank.vectors, torch.tensor([[0.75 / length, 0.25 / length]]))
