"""Write mask shards: workers compress chunks, one parent writes them, whole or not at all."""

import errno
import hashlib
import json
import os
import re
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import h5py
import numpy as np

from data.errors import UserError
from data.keys import Keys
from data.shard_format import (
    FORMAT,
    INDEX_NAME,
    LIBVER,
    STATUS_TYPE,
    TEXT_TYPE,
    VERSION,
    ShardHeader,
    Status,
    create_masks,
    open_shard,
    read_header,
    shard_name,
    shard_paths,
)

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
]


class Chunk(NamedTuple):
    """One mask as HDF5 stores it: compressed and checksummed. Cheap to send between processes."""

    data: bytes
    filter_mask: int  # bit i set: filter i was skipped, because the mask would not shrink


class ChunkEncoder:
    """Compress masks into the very bytes that a shard holds, in any process.

    HDF5 itself makes the bytes, in a file that lives in memory, so that a shard's writer needs only to
    copy them. One encoder serves one thread.

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
        self._masks.write(h5py.h5s.ALL, h5py.h5s.ALL, raster)
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
        digest of all keys, `Keys.digest`); any other attribute that HDF5 can store.

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
        self.path = Path(path)
        self.temporary = self.path.with_name(f".{self.path.name}.{os.getpid()}.tmp")
        rows = len(keys)
        self._keys = keys
        self._status = np.full(rows, Status.FAILED, np.uint8)
        self._written = np.zeros(rows, bool)
        self._sizes = np.zeros((rows, 4), np.uint32)  # mask height, width; image height, width
        self._errors = [""] * rows
        self._checks = np.zeros(rows, np.uint32)
        self._file: h5py.File | None = None
        with self._telling():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = h5py.File(self.temporary, "w", libver=LIBVER, locking=False)
            masks = create_masks(self._file, rows, canvas, compression)
            self._masks = masks.id
            for name, value in self._header(number, count, attributes).items():
                self._file.attrs[name] = value

    def _header(self, number: int, count: int, attributes: Mapping[str, Any]) -> dict[str, Any]:
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
            "image_count": np.uint32(len(self._keys)),
            "keys_digest": self._keys.digest(),
            "complete": np.uint8(0),
            **given,
        }

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

        `chunk` is None for an image without a mask (status UNREADABLE or FAILED, `error` the reason).
        """
        if self._written[row]:
            raise ValueError(f"row {row} is written twice")
        if (chunk is None) != (status in (Status.UNREADABLE, Status.FAILED)):
            raise ValueError(
                f"status {status!r} with chunk {'absent' if chunk is None else 'given'}"
            )
        if chunk is not None:
            with self._telling():
                self._masks.write_direct_chunk((row, 0, 0), chunk.data, chunk.filter_mask)
            self._checks[row] = zlib.crc32(chunk.data)
            self._sizes[row, :2] = mask_size
        self._sizes[row, 2:] = image_size
        self._status[row] = status
        self._errors[row] = error.replace("\0", " ")
        self._written[row] = True

    def commit(self) -> None:
        """Write what belongs to all rows, sync, and give the file its final name.

        An `index.h5` beside it is removed, because it describes the shards of before.
        """
        missing = np.flatnonzero(~self._written)
        if len(missing):
            raise ValueError(f"{len(missing)} rows were not written, the first is {missing[0]}")
        with self._telling():
            file = self._file
            if file is None:
                raise ValueError("the shard is already closed")
            keys = np.array([*self._keys.iter_raw(), None], object)[:-1]
            errors = np.array(
                [*(text.encode("utf-8", "replace") for text in self._errors), None], object
            )[:-1]
            file.create_dataset("keys", data=keys, dtype=TEXT_TYPE)
            file.create_dataset("error", data=errors, dtype=TEXT_TYPE)
            file.create_dataset("status", data=self._status, dtype=STATUS_TYPE)
            file.create_dataset("mask_size", data=self._sizes[:, :2], dtype="<u4")
            file.create_dataset("image_size", data=self._sizes[:, 2:], dtype="<u4")
            content = hashlib.sha256()
            for part in (self._checks, self._status, self._sizes):
                content.update(np.ascontiguousarray(part, part.dtype.newbyteorder("<")).tobytes())
            file.attrs["content_digest"] = content.hexdigest()
            file.attrs["complete"] = np.uint8(1)
            self._file = None
            file.close()
            publish(self.temporary, self.path, stale=self.path.with_name(INDEX_NAME))

    def abort(self) -> None:
        """Drop the shard; nothing remains of it."""
        file, self._file = self._file, None
        if file is not None:
            try:
                file.close()
            except (
                OSError,
                RuntimeError,
            ):  # a full disk: what could not be written does not matter
                pass
        self.temporary.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._file is not None:
            self.abort()

    def _telling(self) -> "_Telling":
        return _Telling(self)


class _Telling:
    """Turn a failing write into a sentence, and leave nothing half-written."""

    def __init__(self, writer: ShardWriter) -> None:
        self.writer = writer

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind, error, trace) -> None:
        # h5py raises RuntimeError where an HDF5 error has no errno of its own
        if isinstance(error, OSError | RuntimeError):
            self.writer.abort()
            raise UserError(_writing_failed(self.writer.path, error)) from None


def _writing_failed(path: Path, error: Exception) -> str:
    code = getattr(error, "errno", None)
    text = " ".join(str(error).split())
    if code is None and (found := re.search(r"errno = (\d+)", text)):
        code = int(found[1])
    if code in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return (
            f"the disk that holds {str(path.parent)!r} is full ({os.strerror(code).lower()}); "
            "make room and run the same command again, it goes on where it stopped."
        )
    reason = os.strerror(code).lower() if code else text
    return (
        f"{str(path)!r} cannot be written ({reason}); "
        "mend that and run the same command again, it goes on where it stopped."
    )


def publish(temporary: Path, path: Path, stale: Path | None = None) -> None:
    """Sync a finished file, give it its final name, and sync the folder; `stale` is removed before."""
    descriptor = os.open(temporary, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    if stale is not None:
        stale.unlink(missing_ok=True)
    os.replace(temporary, path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    except OSError:  # some network file systems cannot sync a folder
        pass
    finally:
        os.close(folder)


def remove_stale_files(
    folder: str | os.PathLike, numbers: Iterable[int] | None = None
) -> list[Path]:
    """Remove the temporary files that killed writers left; return their paths.

    Call it before writing. Where several commands write into one folder (an array job), give the
    `numbers` of the shards that are this command's, so that the others' files stay.
    """
    wanted = None if numbers is None else {shard_name(number) for number in numbers}
    removed = []
    for path in Path(folder).glob(".*.h5.*.tmp"):
        if wanted is None or path.name[1:].rsplit(".", 2)[0] in wanted:
            path.unlink(missing_ok=True)
            removed.append(path)
    return removed
