"""Keys: the names of a million images in the memory of their letters."""

import hashlib
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
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


def printable_lines(text: str) -> str:
    """Return a text of several lines, each as `printable` has it."""
    return "\n".join(map(printable, text.split("\n")))


def leads_out(key: str) -> bool:
    """Tell whether a key does not name a file inside a folder, such as `../x`, `/x` or `a//x`."""
    return "\0" in key or any(part in ("", ".", "..") for part in key.split("/"))


def compositions(name: str) -> list[str]:
    """Return a name, and as Linux (NFC) and macOS (NFD) write it where those differ from it."""
    forms = (unicodedata.normalize(form, name) for form in ("NFC", "NFD"))
    return [name] if name.isascii() else list(dict.fromkeys((name, *forms)))


def texts_digest(texts: Iterable[bytes]) -> str:
    """Return the SHA-256 in hex of some texts' bytes, each followed by a zero byte."""
    total, texts = hashlib.sha256(), iter(texts)
    while part := list(islice(texts, 4096)):
        total.update(b"\0".join([*part, b""]))
    return total.hexdigest()


class Keys(Sequence[str]):
    """An immutable sequence of unique keys, sorted by their UTF-8 bytes.

    Held as one array instead of a list of `str`, so that the names of ImageNet's 1.28 million
    training images take 38 MB that forked workers share and that may be memory-mapped. Every row
    has the bytes of the longest key; no key ends in a zero byte, which fills up the others.

    keys : names in any order; ValueError where a name occurs twice.

    array : bytes (dtype S) (N,), sorted.
    """

    __slots__ = ("array",)

    array: np.ndarray

    def __init__(self, keys: Iterable[str] = ()) -> None:
        array = np.array([encode_key(key) for key in keys], "S")
        array.sort()
        twice = np.flatnonzero(array[1:] == array[:-1])
        if len(twice):
            raise ValueError(f"the key {decode_key(array[twice[0]])!r} occurs twice")
        self.array = array

    @classmethod
    def from_array(cls, array: np.ndarray) -> Self:
        """Wrap an array of encoded keys, memory-mapped ones too, without a copy.

        The caller answers for its order; see `is_sorted`.
        """
        keys = cls.__new__(cls)
        keys.array = array
        return keys

    @classmethod
    def concatenate(cls, parts: Sequence["Keys"]) -> Self:
        """Join runs of keys that follow one another."""
        return cls.from_array(np.concatenate([Keys().array, *(part.array for part in parts)]))

    def __len__(self) -> int:
        return len(self.array)

    @overload
    def __getitem__(self, row: int) -> str: ...
    @overload
    def __getitem__(self, row: slice | np.ndarray) -> "Keys": ...
    def __getitem__(self, row: int | slice | np.ndarray) -> "str | Keys":
        """Return the key of a row; or the keys of a slice or of sorted rows."""
        if not isinstance(row, slice | np.ndarray):
            return decode_key(self.array[row])
        return Keys.from_array(self.array[row])

    def __iter__(self) -> Iterator[str]:
        return map(decode_key, self.iter_raw())

    def iter_raw(self) -> Iterator[bytes]:
        """Yield the bytes of each key."""
        for start in range(0, len(self), 4096):  # not a million of objects at once
            yield from self.array[start : start + 4096].tolist()

    def find(self, key: str) -> int:
        """Return the row of a key by bisection; KeyError when it is not there."""
        try:
            raw = encode_key(key)
        except UnicodeEncodeError:  # no file can have this name
            raise KeyError(key) from None
        # a longer name than any here would make NumPy copy the array
        row = int(self.array.searchsorted(raw)) if len(raw) <= self.array.itemsize else len(self)
        if row == len(self) or self.array[row] != raw:
            raise KeyError(key)
        return row

    def beginning_with(self, prefix: str) -> Iterator[int]:
        """Yield the rows of the keys that begin with some letters."""
        raw = encode_key(prefix)
        if len(raw) > self.array.itemsize:
            return
        for row in range(int(self.array.searchsorted(raw)), len(self)):
            if not self.array[row].startswith(raw):
                return
            yield row

    def rows(self, others: "Keys") -> np.ndarray:
        """Return the row here of each of the other keys, -1 where it is not here: int64 (M,)."""
        if not len(self):
            return np.full(len(others), -1, np.int64)
        rows = self.array.searchsorted(others.array)
        there = self.array[np.minimum(rows, len(self) - 1)] == others.array
        return np.where(there, rows, -1)

    def composed_otherwise(self, others: "Keys") -> str:
        """Say which names differ from those here in Unicode's composition alone; "" for none."""
        for key in others:
            for name in compositions(key)[1:]:
                if name in self and key not in self:
                    return (
                        f"; {key!a} and {name!a} differ in Unicode's composition alone, "
                        "of which macOS writes one (NFD) and Linux the other (NFC): rename the "
                        "files of one side, as convmv does"
                    )
        return ""

    def __contains__(self, key: object) -> bool:
        try:
            return isinstance(key, str) and self.find(key) >= 0
        except KeyError:
            return False

    def is_sorted(self) -> bool:
        """Tell whether every key is greater than the one before it."""
        return bool((self.array[1:] > self.array[:-1]).all())

    def digest(self) -> str:
        """Return the digest of the keys' bytes, as `texts_digest` says."""
        return texts_digest(self.iter_raw())

    def __eq__(self, other: object) -> bool:
        return (
            np.array_equal(self.array, other.array) if isinstance(other, Keys) else NotImplemented
        )

    __hash__ = None  # type: ignore[assignment]

    def __reduce__(self) -> tuple:
        return Keys.from_array, (np.array(self.array),)

    def __repr__(self) -> str:
        shown = ", ".join(repr(key) for key in self[:3]) + (", ..." if len(self) > 3 else "")
        return f"Keys({len(self)}: {shown})"
