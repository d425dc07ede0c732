"""Keys: the names of a million images in the memory of their letters."""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import Self, overload

import numpy as np


def encode_key(key: str) -> bytes:
    """Return the UTF-8 bytes of a key; what `decode_key` could not decode comes back as it was."""
    return key.encode("utf-8", "surrogateescape")


def decode_key(raw: bytes) -> str:
    """Return the key of these bytes; bytes that are not UTF-8 become lone surrogates (PEP 383)."""
    return raw.decode("utf-8", "surrogateescape")


def is_utf8(name: str) -> bool:
    """Return whether a name, as the system gave it, is text: without PEP 383's lone surrogates."""
    return not any("\ud800" <= c <= "\udfff" for c in name)


def printable(key: str) -> str:
    """Return a key as one line that any terminal, page or file can show: odd characters escaped."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in key)


class Keys(Sequence[str]):
    """An immutable sequence of unique keys, sorted by their UTF-8 bytes.

    Held as two arrays instead of a list of `str`, so that the names of ImageNet's 1.28 million
    training images take 50 MB, in pieces that forked workers share and that may be memory-mapped.

    Parameters
    ----------
    keys
        Names in any order. A name that occurs twice is a ValueError.

    Attributes
    ----------
    blob : uint8 array
        The bytes of all keys, one after the other.
    offsets : int64 array, (len + 1,)
        Key i is `blob[offsets[i]:offsets[i + 1]]`.
    """

    __slots__ = ("blob", "offsets")

    blob: np.ndarray
    offsets: np.ndarray

    def __init__(self, keys: Iterable[str] = ()) -> None:
        raw = sorted(encode_key(key) for key in keys)
        for before, after in pairwise(raw):
            if before == after:
                raise ValueError(f"the key {decode_key(after)!r} occurs twice")
        offsets = np.zeros(len(raw) + 1, np.int64)
        np.cumsum(np.fromiter(map(len, raw), np.int64, len(raw)), out=offsets[1:])
        self.blob = np.frombuffer(b"".join(raw), np.uint8)
        self.offsets = offsets

    @classmethod
    def from_arrays(cls, blob: np.ndarray, offsets: np.ndarray) -> Self:
        """Wrap arrays, memory-mapped ones too, without a copy; they hold sorted, unique keys."""
        keys = cls.__new__(cls)
        keys.blob = blob
        keys.offsets = offsets
        return keys

    @classmethod
    def from_raw(cls, raw: Sequence[bytes]) -> Self:
        """Make keys of encoded names in the order given; see `is_sorted`."""
        offsets = np.zeros(len(raw) + 1, np.int64)
        np.cumsum(np.fromiter(map(len, raw), np.int64, len(raw)), out=offsets[1:])
        return cls.from_arrays(np.frombuffer(b"".join(raw), np.uint8), offsets)

    @classmethod
    def concatenate(cls, parts: Sequence["Keys"]) -> Self:
        """Join runs of keys that follow one another."""
        blobs = [part.blob[part.offsets[0] : part.offsets[-1]] for part in parts]
        lengths = [np.diff(part.offsets) for part in parts]
        offsets = np.zeros(sum(map(len, lengths)) + 1, np.int64)
        if parts:
            np.cumsum(np.concatenate(lengths), out=offsets[1:])
        blob = np.concatenate(blobs) if parts else np.empty(0, np.uint8)
        return cls.from_arrays(blob, offsets)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def raw(self, row: int) -> bytes:
        """Return the bytes of the key in this row, 0 <= row < len."""
        return self.blob[self.offsets[row] : self.offsets[row + 1]].tobytes()

    @overload
    def __getitem__(self, row: int) -> str: ...
    @overload
    def __getitem__(self, row: slice) -> "Keys": ...
    def __getitem__(self, row: int | slice) -> "str | Keys":
        if not isinstance(row, slice):
            row = int(row)
            if not -len(self) <= row < len(self):
                raise IndexError(f"row {row} of {len(self)} keys")
            return decode_key(self.raw(row % len(self)))
        start, stop, step = row.indices(len(self))
        if step < 0:
            raise ValueError("keys are sorted: a slice with a negative step is not")
        if step == 1:  # a view
            return Keys.from_arrays(self.blob, self.offsets[start : max(start, stop) + 1])
        return Keys.from_raw([self.raw(i) for i in range(start, stop, step)])

    def __iter__(self) -> Iterator[str]:
        return map(decode_key, self.iter_raw())

    def iter_raw(self) -> Iterator[bytes]:
        """Yield the bytes of each key."""
        for start in range(0, len(self), 4096):  # a block at a time: one copy, no million of ints
            bounds = self.offsets[start : start + 4097]
            text = self.blob[bounds[0] : bounds[-1]].tobytes()
            marks = (bounds - bounds[0]).tolist()
            for a, b in pairwise(marks):
                yield text[a:b]

    def find(self, key: str) -> int:
        """Return the row of a key by bisection; KeyError when it is not there."""
        wanted = encode_key(key)
        low, high = 0, len(self)
        while low < high:
            middle = (low + high) // 2
            if self.raw(middle) < wanted:
                low = middle + 1
            else:
                high = middle
        if low == len(self) or self.raw(low) != wanted:
            raise KeyError(key)
        return low

    def index(self, value: str, start: int = 0, stop: int | None = None) -> int:
        """Return the row of a key; ValueError when it is not there (as every sequence does)."""
        try:
            row = self.find(value)
        except KeyError:
            row = -1
        if row not in range(*slice(start, stop).indices(len(self))):
            raise ValueError(f"{value!r} is not among the keys")
        return row

    def __contains__(self, key: object) -> bool:
        if not isinstance(key, str):
            return False
        try:
            self.find(key)
        except (KeyError, UnicodeEncodeError):
            return False
        return True

    def is_sorted(self) -> bool:
        """Tell whether every key is greater than the one before it."""
        return all(before < after for before, after in pairwise(self.iter_raw()))

    def digest(self) -> str:
        """Return the SHA-256 in hex of every key's bytes, each followed by a zero byte."""
        total = hashlib.sha256()
        block: list[bytes] = []
        for raw in self.iter_raw():
            block.append(raw)
            if len(block) == 4096:
                total.update(b"\0".join(block) + b"\0")
                block.clear()
        if block:
            total.update(b"\0".join(block) + b"\0")
        return total.hexdigest()

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Keys):
            return NotImplemented
        return len(self) == len(other) and all(
            a == b for a, b in zip(self.iter_raw(), other.iter_raw(), strict=True)
        )

    __hash__ = None  # type: ignore[assignment]

    def __reduce__(self) -> tuple:
        part = Keys.concatenate([self])  # a slice travels without the rest of its blob
        return Keys.from_arrays, (np.array(part.blob), np.array(part.offsets))

    def __repr__(self) -> str:
        shown = ", ".join(repr(key) for key in self[:3]) + (", ..." if len(self) > 3 else "")
        return f"Keys({len(self)}: {shown})"
