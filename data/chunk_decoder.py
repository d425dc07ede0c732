"""Decode masks from a shard's raw bytes, without holding its HDF5 file open.

An open HDF5 file costs a process about a megabyte, and opening one a millisecond or more. A loader
that draws masks at random from ImageNet's 313 shards would pay one or the other. It knows where
each mask lies, however, and so reads the bytes itself; HDF5 undoes compression and checksum in one
small file in memory, made like the shard's.
"""

import h5py
import numpy as np

from data.shard_format import LIBVER

_CHECKSUM = 4  # bytes of Fletcher-32 at a chunk's end


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

    def decode(self, data: bytes, filter_mask: int, mask: np.ndarray) -> None:
        """Decode a chunk into `mask`, uint8 (h, w), from the canvas's top left corner.

        `filter_mask` tells which filters were skipped. OSError, RuntimeError or ValueError when the
        checksum is wrong or the bytes cannot be decompressed.
        """
        if len(data) <= _CHECKSUM:  # HDF5's checksum filter would read beyond them, and crash
            raise ValueError(f"{len(data)} bytes cannot be a mask")
        self._masks.write_direct_chunk((0, 0, 0), data, filter_mask)
        self._space.select_hyperslab((0, 0, 0), (1, *mask.shape))
        self._masks.read(h5py.h5s.create_simple((1, *mask.shape)), self._space, mask)


def filters_of(masks: h5py.Dataset) -> tuple:
    """Return what two datasets must have in common to share a decoder."""
    properties = masks.id.get_create_plist()
    filters = tuple(properties.get_filter(i) for i in range(properties.get_nfilters()))
    return (masks.shape[1:], filters)
