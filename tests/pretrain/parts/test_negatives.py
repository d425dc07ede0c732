"""The draws of negatives: uniform, independent, without state."""

import numpy as np
import pytest
import torch
from scipy import stats

from pretrain.parts.negatives import (
    OwnDraws,
    SharedDraws,
    WholeMemory,
    stream_key,
    uniform_integers,
)


def split_mix_64(seed: int, count: int) -> list[int]:
    """SplitMix64 as in Vigna's splitmix64.c."""
    mask, out = 2**64 - 1, []
    for _ in range(count):
        seed = (seed + 0x9E3779B97F4A7C15) & mask
        z = seed
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 & mask
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB & mask
        out.append(z ^ (z >> 31))
    return out


def test_equals_the_reference_generator():
    assert split_mix_64(1234567, 2) == [
        6457827717110365317,
        3203168211198807973,
    ]  # published values
    for key in (0, 1234567, 2**63 + 5, 2**64 - 1):
        found = uniform_integers(key, torch.arange(1, 101), 2**62)
        assert found.tolist() == [z % 2**63 % 2**62 for z in split_mix_64(key, 100)]


@pytest.mark.parametrize("high", [7, 1000])
def test_uniform(high):
    draws = uniform_integers(stream_key(0, 1), torch.arange(200_000), high).numpy()
    assert draws.min() == 0 and draws.max() == high - 1
    assert stats.chisquare(np.bincount(draws, minlength=high)).pvalue > 1e-4


def test_steps_seeds_and_rows_are_independent():
    keys = [stream_key(s, t) for s in range(30) for t in range(30)]
    assert len(set(keys)) == 900
    a, b = (uniform_integers(stream_key(0, t), torch.arange(50_000), 10).numpy() for t in (5, 6))
    table = np.zeros((10, 10))
    np.add.at(table, (a, b), 1)
    assert stats.chi2_contingency(table).pvalue > 1e-4


def test_own_draws_do_not_depend_on_the_split_of_the_batch():
    bank = torch.randn(100, 4)
    whole = torch.cat(list(OwnDraws(bank, 50, 9, torch.arange(8))), 1)
    halves = [torch.cat(list(OwnDraws(bank, 50, 9, rows)), 1) for rows in torch.arange(8).split(4)]
    assert whole.shape == (8, 50, 4)
    assert torch.equal(whole, torch.cat(halves))
    assert not torch.equal(whole[0], whole[1])


def test_chunks_make_up_the_whole(monkeypatch):
    bank = torch.randn(100, 4)
    for build, together in (
        (lambda: WholeMemory(bank, 8), 0),
        (lambda: SharedDraws(bank, 50, 9, 8), 0),
        (lambda: OwnDraws(bank, 50, 9, torch.arange(8)), 1),
    ):
        whole = torch.cat(list(build()), together)
        monkeypatch.setattr("pretrain.parts.negatives._elements", lambda vectors: 8 * 4 * 3)
        pieces = list(build())
        monkeypatch.undo()
        assert len(pieces) > 4
        assert torch.equal(torch.cat(pieces, together), whole)
