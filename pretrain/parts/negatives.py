"""Which vectors of the memory are a step's negatives, read a chunk at a time.

The draws have no state: they follow from (seed, step, row of the global batch, number of the
negative) by a counter-based generator. So they are the same on any device, with any number of
processes, and after a resume.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

_MASK = 2**64 - 1
_GAMMA = 0x9E3779B97F4A7C15
_MIX = ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB), (31, 1))


def _elements(vectors: torch.Tensor) -> int:
    """Return the size of a chunk's largest tensor: 2 MB on a CPU, whose cache holds it, else 64."""
    return 2**19 if vectors.device.type == "cpu" else 2**24


def _signed(value: int) -> int:
    """Return the int64 of the same 64 bits."""
    value &= _MASK
    return value - 2**64 if value >= 2**63 else value


def _split_mix(value: int) -> int:
    """SplitMix64's output function (Steele et al. 2014) on one integer."""
    for shift, factor in _MIX:
        value = (value ^ (value >> shift)) * factor & _MASK
    return value


def stream_key(*numbers: int) -> int:
    """Return a 64-bit key for a stream of draws, from any integers (seed, step, ...)."""
    key = 0
    for number in numbers:
        key = _split_mix((key + _GAMMA + number) & _MASK)
    return key


def uniform_integers(key: int, counters: torch.Tensor, high: int) -> torch.Tensor:
    """Return integers uniform on 0..high-1, int64, one for each counter of the stream `key`.

    SplitMix64 of counters (int64, any shape, on any device); 63 of its bits modulo `high`, so the
    bias is below high / 2**63.
    """
    value = counters * _signed(_GAMMA) + _signed(key)
    for shift, factor in _MIX:
        # int64's >> keeps the sign: mask what it drags in
        value = (value ^ ((value >> shift) & (2 ** (64 - shift) - 1))) * _signed(factor)
    return (value & (2**63 - 1)) % high


class WholeMemory:
    """Every vector of the memory, the positives included: chunks (C, d) of (N, d)."""

    positive_included = True

    def __init__(self, vectors: torch.Tensor, batch: int) -> None:
        self.vectors = vectors
        self.chunk = max(1, _elements(vectors) // batch)

    def __iter__(self) -> Iterator[torch.Tensor]:
        return iter(self.vectors.split(self.chunk))


class SharedDraws:
    """K vectors drawn uniformly with replacement, the same for the whole batch: chunks (C, d)."""

    positive_included = False

    def __init__(self, vectors: torch.Tensor, count: int, key: int, batch: int) -> None:
        counters = torch.arange(count, device=vectors.device)
        self.vectors = vectors
        self.index = uniform_integers(key, counters, len(vectors))  # (K,)
        self.chunk = max(1, _elements(vectors) // max(batch, vectors.shape[1]))

    def __iter__(self) -> Iterator[torch.Tensor]:
        for index in self.index.split(self.chunk):
            yield self.vectors[index]


class OwnDraws:
    """K vectors for each sample, drawn uniformly with replacement, as published: chunks (B, C, d).

    rows : int64 (B,), each sample's row of the global batch.
    """

    positive_included = False

    def __init__(self, vectors: torch.Tensor, count: int, key: int, rows: torch.Tensor) -> None:
        self.vectors, self.count, self.key = vectors, count, key
        self.rows = rows.to(vectors.device)
        self.chunk = max(1, _elements(vectors) // (len(rows) * vectors.shape[1]))

    def __iter__(self) -> Iterator[torch.Tensor]:
        for start in range(0, self.count, self.chunk):
            stop = min(start + self.chunk, self.count)
            numbers = torch.arange(start, stop, device=self.vectors.device)
            counters = self.rows[:, None] * self.count + numbers  # (B, C)
            yield self.vectors[uniform_integers(self.key, counters, len(self.vectors))]
