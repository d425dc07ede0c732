"""Write mask shards: workers compress chunks, one parent writes them, whole or not at all."""

import errno
import json
import os
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, Self

import h5py
import numpy as np

from data.keys import Keys, texts_digest
from data.masks.format import (
    FORMAT,
    INDEX_NAME,
    STATUS_TYPE,
    TEXT_TYPE,
    VERSION,
    Status,
    attributes_digest,
    content_digest,
    create_masks,
    file_in_memory,
)
from data.masks.opening import write_sealed


class Chunk(NamedTuple):
    """One mask as HDF5 stores it: compressed and checksummed. Cheap to send between processes."""

    data: bytes
    filter_mask: int  # bit i set: filter i was skipped, because the mask would not shrink


class ChunkEncoder:
    """Compress masks into the very bytes that a shard holds, in any process.

    HDF5 itself makes the bytes, in a file that lives in memory, so that a shard's writer needs only
    to copy them. One encoder serves one thread.

    canvas : S, the side of the raster; no mask may be larger.
    compression : "zstd" or "gzip".
    """

    def __init__(self, canvas: int, compression: str = "zstd") -> None:
        self.canvas = canvas
        self.compression = compression
        self._raster: np.ndarray | None = None
        # without a chunk cache: a write goes through the filters at once
        self._file = file_in_memory(rdcc_nbytes=0)
        self._masks = create_masks(self._file, 1, self.canvas, self.compression).id

    def encode(self, mask: np.ndarray) -> Chunk:
        """Encode a mask, uint8 (h, w) with 1 <= h, w <= canvas."""
        if mask.dtype != np.uint8 or mask.ndim != 2 or not mask.size:
            raise ValueError(f"a mask is uint8 (h, w), not {mask.dtype} {mask.shape}")
        height, width = mask.shape
        if max(height, width) > self.canvas:
            raise ValueError(f"a mask of {height}x{width} does not fit a canvas of {self.canvas}")
        try:
            if self._raster is None:
                self._raster = np.zeros((1, self.canvas, self.canvas), np.uint8)
            self._raster[0, :height, :width] = mask
            self._raster[0, height:] = 0
            self._raster[0, :height, width:] = 0
            self._masks.write(h5py.h5s.ALL, h5py.h5s.ALL, self._raster)
        except (MemoryError, OSError) as error:
            if isinstance(error, OSError) and "memory allocation failed" not in str(error):
                raise
            exhausted = MemoryError(f"a raster of {self.canvas} x {self.canvas} pixels")
            exhausted.add_note("give a smaller --max-side")
            raise exhausted from None
        filter_mask, data = self._masks.read_direct_chunk((0, 0, 0))
        return Chunk(data, filter_mask)

    def __reduce__(self) -> tuple:  # a worker that receives an encoder makes its own file
        return ChunkEncoder, (self.canvas, self.compression)


class ShardWriter:
    """Collect the rows of one shard; `commit` makes it appear whole.

    Nothing is on the disk before. Leaving it without `commit`, as a context manager does where an
    exception comes, drops the rows.

    path : the final name, `OUT/shard-00003.h5`.
    number, count : this shard's number from 0, and how many shards the set has.
    keys : the keys of this shard's rows.
    canvas : S, the side of the raster.
    compression : "zstd" or "gzip"; the same as the encoder's.
    attributes : `method` (str), `parameters` and `software` (dicts, stored as JSON),
        `listing_digest` (the digest of all keys, `Keys.digest`); and any other text or whole
        number, such as `set_id`, which is the same in all shards of a set and in no other.

    Raises OSError: the folder cannot be written, or, from `commit`, the disk is full.
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
        self._keys, self._canvas, self._compression = keys, canvas, compression
        given = dict(attributes)
        self._header = {
            "format": FORMAT,
            "format_version": np.uint32(VERSION),
            "method": str(given.pop("method")),
            "parameters": json.dumps(given.pop("parameters"), sort_keys=True),
            "software": json.dumps(given.pop("software"), sort_keys=True),
            "listing_digest": str(given.pop("listing_digest")),
            "shard_number": np.uint32(number),
            "shard_count": np.uint32(count),
            "image_count": np.uint32(rows),
            "keys_digest": keys.digest(),
            "complete": np.uint8(1),
            **given,
        }
        for name, value in given.items():
            if not isinstance(value, str | int | np.integer):
                raise ValueError(f"the attribute {name!r} is neither text nor a whole number")
        self._chunks: list[Chunk | None] = [None] * rows
        self._status = np.full(rows, Status.FAILED, np.uint8)
        self._written = np.zeros(rows, bool)
        self._mask_size = np.zeros((rows, 2), np.uint32)
        self._image_size = np.zeros((rows, 2), np.uint32)
        self._errors = [""] * rows
        folder = self.path.parent
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK):  # said now, not after an hour of work
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(folder))

    def write(
        self,
        row: int,
        chunk: Chunk | None,
        mask_size: tuple[int, int] = (0, 0),
        image_size: tuple[int, int] = (0, 0),
        status: Status = Status.OK,
        error: str = "",
    ) -> None:
        """Take one row; rows come in any order, each once.

        Sizes are (height, width). `chunk` is None, and `error` the reason, for an image without a
        mask (status UNREADABLE or FAILED); for another, `error` is a remark.
        """
        if self._written[row]:
            raise ValueError(f"row {row} is written twice")
        if (chunk is None) != (status in (Status.UNREADABLE, Status.FAILED)):
            raise ValueError(f"{status!r} with {'no' if chunk is None else 'a'} mask")
        if chunk is not None:
            self._chunks[row] = chunk
            self._mask_size[row] = mask_size
        self._image_size[row] = image_size
        self._status[row] = status
        self._errors[row] = error.replace("\0", " ")
        self._written[row] = True

    def commit(self) -> None:
        """Assemble the shard in memory and write it whole.

        An `index.h5` beside it is removed, because it describes the shards of before.
        """
        missing = np.flatnonzero(~self._written)
        if len(missing):
            raise ValueError(f"{len(missing)} rows were not written, the first is {missing[0]}")
        image, chunks = self._assemble()
        self.path.with_name(INDEX_NAME).unlink(missing_ok=True)
        write_sealed(self.path, image, apart=chunks)  # they have `checks`

    def _assemble(self) -> tuple[bytes, list[tuple[int, int]]]:
        """Return the shard's bytes, and where chunks lie: (offset, bytes) of each.

        Every chunk is let go when it is copied.
        """
        checks = np.zeros(len(self._keys), np.uint32)
        chunks: list[tuple[int, int]] = []
        with file_in_memory(block_size=1 << 22) as file:
            masks = create_masks(file, len(self._keys), self._canvas, self._compression).id
            for row, chunk in enumerate(self._chunks):
                if chunk is not None:
                    masks.write_direct_chunk((row, 0, 0), chunk.data, chunk.filter_mask)
                    checks[row] = zlib.crc32(chunk.data)
                    self._chunks[row] = None
            errors = [text.encode("utf-8", "backslashreplace") for text in self._errors]
            for name, texts in (("keys", self._keys.array.tolist()), ("error", errors)):
                file.create_dataset(name, data=np.array(texts, object), dtype=TEXT_TYPE)
            file.create_dataset("status", data=self._status, dtype=STATUS_TYPE)
            file.create_dataset("mask_size", data=self._mask_size, dtype="<u4")
            file.create_dataset("image_size", data=self._image_size, dtype="<u4")
            file.create_dataset("checks", data=checks, dtype="<u4")
            digest = content_digest(checks, self._status, self._mask_size, self._image_size)
            header = {
                **self._header,
                "content_digest": digest,
                "error_digest": texts_digest(errors),
            }
            header["header_digest"] = attributes_digest(header)
            for name, value in header.items():
                file.attrs[name] = value
            file.flush()
            masks.chunk_iter(lambda chunk: chunks.append((chunk.byte_offset, chunk.size)))
            return file.id.get_file_image(), chunks

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._chunks.clear()
