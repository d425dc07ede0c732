"""Decode masks from a shard's raw bytes, without holding its HDF5 file open.

An open HDF5 file costs a process about a megabyte, and opening one a millisecond or more. A loader
that draws masks at random from ImageNet's 313 shards would pay one or the other. It knows where
each mask lies, however, and so reads the bytes itself. What DiLo writes by default (zstd, then
Fletcher-32) is undone here. Anything else is left to HDF5, with one small file in memory that is
made like the shard: gzip, a chunk whose compression was skipped, and bytes that are not sound, of
which HDF5 says what is wrong.
"""

import h5py
import numpy as np
import zstandard

from data.masks.format import LIBVER

_CHECKSUM = 4  # bytes of Fletcher-32 at a chunk's end
_ZSTD_FLETCHER32 = (32015, h5py.h5z.FILTER_FLETCHER32)  # filter numbers, in the order of writing

_WORD, _FLOAT = np.dtype("<u2"), np.dtype(np.float64)
_PIECE = 1 << 13  # words that are summed at once: BLAS starts no threads for so few
_ENTERING = np.arange(_PIECE, 0, -1, dtype=np.float64)  # how often each enters the second sum
_ONCE = np.ones(_PIECE)


def fletcher32(data: bytes | memoryview) -> int:
    """Return HDF5's Fletcher-32 of some bytes: over their big-endian 16-bit words, 0 filling up.

    It is exact for data of any size. The words are summed as little-endian ones, which need no
    swapping: modulo 65535 the swapped word is 256 times the word. Float64 holds the sums of a piece
    exactly, and Python's integers those of all pieces.
    """
    if len(data) % 2:
        data = bytes(data) + b"\0"
    words = len(data) // 2
    low = high = 0
    for start in range(0, words, _PIECE):
        count = min(_PIECE, words - start)
        piece = np.frombuffer(data, _WORD, count, 2 * start).astype(_FLOAT)
        high += count * low + int(_ENTERING[-count:].dot(piece))
        low += int(_ONCE[:count].dot(piece))
    return _folded(high) << 16 | _folded(low)


def _folded(total: int) -> int:
    """A sum in ones' complement, in which 0 stands for an empty sum alone, else 65535."""
    return 256 * total % 65535 or 65535 * (total > 0)


class ChunkDecoder:
    """Turn a stored chunk back into a mask. One decoder serves one thread.

    Parameters
    ----------
    masks
        A shard's `masks` dataset: its canvas and filters are taken over. It may be closed
        afterwards.
    """

    def __init__(self, masks: h5py.Dataset) -> None:
        self._file = h5py.File(
            f"decoder-{id(self)}",
            "w",
            driver="core",
            backing_store=False,
            libver=LIBVER,
            rdcc_nbytes=0,  # no chunk cache: a read must see the chunk that was put there last
        )
        self._masks = h5py.h5d.create(
            self._file.id,
            b"masks",
            masks.id.get_type(),
            h5py.h5s.create_simple((1, *masks.shape[1:])),
            masks.id.get_create_plist(),
        )
        self._space = self._masks.get_space()
        self._canvas = masks.shape[1:]
        _, filters = filters_of(masks)
        if tuple(number for number, *_ in filters) == _ZSTD_FLETCHER32:
            self._zstd: zstandard.ZstdDecompressor | None = zstandard.ZstdDecompressor()
        else:
            self._zstd = None

    def decode(self, data: bytes, filter_mask: int, mask: np.ndarray) -> None:
        """Decode a chunk into `mask`, uint8 (h, w), from the canvas's top left corner.

        `filter_mask` tells which filters were skipped. OSError, RuntimeError or ValueError when the
        checksum is wrong or the bytes cannot be decompressed.
        """
        if len(data) <= _CHECKSUM:  # HDF5's checksum filter would read beyond them, and crash
            raise ValueError(f"{len(data)} bytes cannot be a mask")
        if filter_mask == 0 and self._zstd is not None and (canvas := self._undo(data)) is not None:
            mask[...] = canvas[: mask.shape[0], : mask.shape[1]]
            return
        self._masks.write_direct_chunk((0, 0, 0), data, filter_mask)
        self._space.select_hyperslab((0, 0, 0), (1, *mask.shape))
        self._masks.read(h5py.h5s.create_simple((1, *mask.shape)), self._space, mask)

    def _undo(self, data: bytes) -> np.ndarray | None:
        """Check and decompress a chunk; None where it is for HDF5 to say what is wrong."""
        packed = memoryview(data)[:-_CHECKSUM]
        if fletcher32(packed) != int.from_bytes(data[-_CHECKSUM:], "little"):
            return None
        try:
            size = zstandard.frame_content_size(packed)
            if size not in (-1, self._canvas[0] * self._canvas[1]):  # nothing larger is allocated
                raise ValueError(f"its {size} pixels are not a canvas of {self._canvas[0]}")
            raw = self._zstd.decompress(packed)
        except zstandard.ZstdError:
            return None
        return np.frombuffer(raw, np.uint8).reshape(self._canvas)


def filters_of(masks: h5py.Dataset) -> tuple:
    """Return what two datasets must have in common to share a decoder."""
    properties = masks.id.get_create_plist()
    filters = tuple(properties.get_filter(i) for i in range(properties.get_nfilters()))
    return (masks.shape[1:], filters)
