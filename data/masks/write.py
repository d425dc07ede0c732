"""Write mask shards: workers compress chunks, one parent writes them, whole or not at all."""

import json
import os
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Self

import h5py
import numpy as np

from data.interrupts import uninterrupted
from data.keys import Keys
from data.masks.format import (
    FORMAT,
    INDEX_NAME,
    LIBVER,
    STATUS_TYPE,
    TEXT_TYPE,
    VERSION,
    ShardHeader,
    Status,
    content_digest,
    create_masks,
    open_shard,
    read_header,
    shard_name,
    shard_paths,
    status_of,
)
from data.pending_file import PendingFile, remove_if_stale

__all__ = [
    "Chunk",
    "ChunkEncoder",
    "ShardHeader",
    "ShardWriter",
    "Status",
    "open_shard",
    "read_header",
    "remove_stale_files",
    "shard_name",
    "shard_paths",
    "status_of",
]


class Chunk(NamedTuple):
    """One mask as HDF5 stores it: compressed and checksummed. Cheap to send between processes."""

    data: bytes
    filter_mask: int  # bit i set: filter i was skipped, because the mask would not shrink


class ChunkEncoder:
    """Compress masks into the very bytes that a shard holds, in any process.

    HDF5 itself makes the bytes, in a file that lives in memory, so that a shard's writer needs only
    to copy them. One encoder serves one thread.

    Parameters
    ----------
    canvas
        S, the side of the raster; no mask may be larger.
    compression
        "zstd" or "gzip".
    """

    def __init__(self, canvas: int, compression: str = "zstd") -> None:
        self.canvas = canvas
        self.compression = compression
        self._raster = np.zeros((1, canvas, canvas), np.uint8)
        self._open()

    def _open(self) -> None:
        self._file = h5py.File(
            f"encoder-{id(self)}",
            "w",
            driver="core",
            backing_store=False,
            libver=LIBVER,
            rdcc_nbytes=0,  # no chunk cache: a write goes through the filters at once
        )
        self._masks = create_masks(self._file, 1, self.canvas, self.compression).id

    def encode(self, mask: np.ndarray) -> Chunk:
        """Encode a mask, uint8 (h, w) with 1 <= h, w <= canvas."""
        if mask.dtype != np.uint8 or mask.ndim != 2 or not mask.size:
            raise ValueError(f"a mask is uint8 (h, w), not {mask.dtype} {mask.shape}")
        height, width = mask.shape
        if max(height, width) > self.canvas:
            raise ValueError(f"a mask of {height}x{width} does not fit a canvas of {self.canvas}")
        raster = self._raster
        raster[0, :height, :width] = mask
        raster[0, height:] = 0
        raster[0, :height, width:] = 0
        try:
            self._masks.write(h5py.h5s.ALL, h5py.h5s.ALL, raster)
        except OSError as error:
            if "memory allocation failed" not in str(error):
                raise
            raise MemoryError(f"a raster of {self.canvas} x {self.canvas} pixels") from None
        filter_mask, data = self._masks.read_direct_chunk((0, 0, 0))
        return Chunk(data, filter_mask)

    def __reduce__(self) -> tuple:  # a worker that receives an encoder makes its own file
        return ChunkEncoder, (self.canvas, self.compression)


class ShardWriter:
    """Write one shard under a temporary name; `commit` makes it appear whole.

    Use as a context manager: leaving it without `commit` (an exception, say) removes every trace.

    Parameters
    ----------
    path
        The final name, `OUT/shard-00003.h5`.
    number, count
        This shard's number from 0, and how many shards the set has.
    keys
        The keys of this shard's rows.
    canvas
        S, the side of the raster.
    compression
        "zstd" or "gzip"; the same as the encoder's.
    attributes
        `method` (str), `parameters` and `software` (dicts, stored as JSON), `listing_digest` (the
        digest of all keys, `Keys.digest`); and any other attribute that HDF5 can store.

    Raises
    ------
    UserError
        The disk is full or the folder cannot be written, from any method.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        number: int,
        count: int,
        keys: Keys,
        canvas: int,
        compression: str,
        attributes: Mapping[str, Any],
    ) -> None:
        rows = len(keys)
        self.path = Path(path)
        self._keys = keys
        self._status = np.full(rows, Status.FAILED, np.uint8)
        self._written = np.zeros(rows, bool)
        self._mask_size = np.zeros((rows, 2), np.uint32)
        self._image_size = np.zeros((rows, 2), np.uint32)
        self._errors = [""] * rows
        self._checks = np.zeros(rows, np.uint32)
        header = _header(number, count, keys, attributes)
        self._file: h5py.File | None = None
        self._pending: PendingFile | None = None
        try:
            with uninterrupted():
                self._pending = PendingFile(path)
                self._file = h5py.File(self._pending, "w", libver=LIBVER)
                self._masks = create_masks(self._file, rows, canvas, compression).id
                for name, value in header.items():
                    self._file.attrs[name] = value
                self._pending.check()
        except BaseException:
            self.abort()
            raise

    @uninterrupted()
    def write(
        self,
        row: int,
        chunk: Chunk | None,
        mask_size: tuple[int, int] = (0, 0),
        image_size: tuple[int, int] = (0, 0),
        status: Status = Status.OK,
        error: str = "",
    ) -> None:
        """Write one row; rows come in any order, each once.

        Sizes are (height, width). `chunk` is None, and `error` the reason, for an image without a
        mask (status UNREADABLE or FAILED).
        """
        if self._written[row]:
            raise ValueError(f"row {row} is written twice")
        if (chunk is None) != (status in (Status.UNREADABLE, Status.FAILED)):
            raise ValueError(f"{status!r} with {'no' if chunk is None else 'a'} mask")
        if chunk is not None:
            self._masks.write_direct_chunk((row, 0, 0), chunk.data, chunk.filter_mask)
            self._pending.check()
            self._checks[row] = zlib.crc32(chunk.data)
            self._mask_size[row] = mask_size
        self._image_size[row] = image_size
        self._status[row] = status
        self._errors[row] = error.replace("\0", " ")
        self._written[row] = True

    @uninterrupted()
    def commit(self) -> None:
        """Write what belongs to all rows, sync, and give the file its final name.

        An `index.h5` beside it is removed, because it describes the shards of before.
        """
        missing = np.flatnonzero(~self._written)
        if len(missing):
            raise ValueError(f"{len(missing)} rows were not written, the first is {missing[0]}")
        try:
            file = self._file
            errors = [text.encode("utf-8", "backslashreplace") for text in self._errors]
            file.create_dataset("keys", data=_texts(self._keys.iter_raw()), dtype=TEXT_TYPE)
            file.create_dataset("error", data=_texts(errors), dtype=TEXT_TYPE)
            file.create_dataset("status", data=self._status, dtype=STATUS_TYPE)
            file.create_dataset("mask_size", data=self._mask_size, dtype="<u4")
            file.create_dataset("image_size", data=self._image_size, dtype="<u4")
            file.attrs["content_digest"] = content_digest(
                self._checks, self._status, self._mask_size, self._image_size
            )
            file.attrs["complete"] = np.uint8(1)
            file.close()
            self._pending.check()
            self.path.with_name(INDEX_NAME).unlink(missing_ok=True)
            self._pending.publish()
        finally:
            self.abort()

    @uninterrupted()
    def abort(self) -> None:
        """Drop the shard; nothing remains of it. After `commit` there is nothing to drop."""
        if self._pending is None:
            return
        self._pending.discard()  # first, so that closing the HDF5 file writes nothing more
        if self._file is not None:
            self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.abort()


def _header(number: int, count: int, keys: Keys, attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Return a shard's root attributes, but for those that `commit` adds."""
    given = dict(attributes)
    return {
        "format": FORMAT,
        "format_version": np.uint32(VERSION),
        "method": str(given.pop("method")),
        "parameters": json.dumps(given.pop("parameters"), sort_keys=True),
        "software": json.dumps(given.pop("software"), sort_keys=True),
        "listing_digest": str(given.pop("listing_digest")),
        "shard_number": np.uint32(number),
        "shard_count": np.uint32(count),
        "image_count": np.uint32(len(keys)),
        "keys_digest": keys.digest(),
        "complete": np.uint8(0),
        **given,
    }


def _texts(raw: Iterable[bytes]) -> np.ndarray:
    """Return an array of bytes objects, as h5py wants them for strings of any length."""
    texts = list(raw)
    array = np.empty(len(texts), object)
    array[:] = texts
    return array


def remove_stale_files(
    folder: str | os.PathLike, numbers: Iterable[int] | None = None
) -> list[Path]:
    """Remove the temporary files that killed writers left; return their paths.

    Call it before writing. A file that a living process still writes, also one on another host
    where the file system has locks, stays. Where several commands write into one folder (an array
    job), give the `numbers` of the shards that are this command's, so that the others' files stay
    also on a file system without locks.
    """
    wanted = None if numbers is None else {shard_name(number) for number in numbers}
    removed = []
    for path in Path(folder).glob(".*.h5.*.tmp"):
        own = wanted is None or path.name[1:].rsplit(".", 2)[0] in wanted
        shared = path.name.startswith(f".{INDEX_NAME}.")  # any command writes it, the last one last
        if (own or shared) and remove_if_stale(path, certain=not own):
            removed.append(path)
    return removed
