"""The shard format: its names, the header that a reader checks first, and the writer of shards.

`docs/shard-format.md` is the specification. Workers compress chunks, one parent writes them, whole
or not at all.
"""

import errno
import hashlib
import importlib.metadata
import json
import os
import platform
import re
import secrets
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any, NamedTuple, Self

import cv2
import h5py
import hdf5plugin
import numpy as np
import PIL

from data.errors import UserError
from data.keys import Keys, texts_digest
from data.masks.opening import damaged, open_shard, own_dataset, reading, write_sealed

FORMAT = "dilo-mask-shard"
VERSION = 2
_READABLE = (1, 2)  # 1 has no digest of the header and the errors, and no `checks`
INDEX_NAME = "index.h5"
MAX_CANVAS = 65535  # the largest raster whose pixels fit a chunk of HDF5, which has below 4 GiB
LIBVER = ("v110", "v110")  # readable by every HDF5 since 1.10 (2016); virtual datasets need 1.10


class Status(IntEnum):
    """What became of an image."""

    OK = 0
    FLAT = 1  # nothing stands out: the mask is zero everywhere
    UNREADABLE = 2  # the image could not be decoded; no mask
    FAILED = 3  # the method gave up on the image; no mask


def status_of(mask: np.ndarray) -> Status:
    """Return the status of an image that got this mask: FLAT where it is zero, else OK."""
    return Status.OK if mask.any() else Status.FLAT


STATUS_TYPE = h5py.enum_dtype({status.name: int(status) for status in Status}, basetype="u1")
TEXT_TYPE = h5py.string_dtype("utf-8")

COMPRESSIONS = {
    # Level 3 of 1..22: on ECSSD's maps level 9 saves a fifth of the bytes for four times the work.
    "zstd": hdf5plugin.Zstd(clevel=3),
    # Part of every HDF5 library, for readers without the zstd plugin.
    "gzip": {"compression": "gzip", "compression_opts": 4},
}


def file_in_memory(**options: Any) -> h5py.File:
    """Open a new HDF5 file without a disk under it, so that no write fails half-way.

    After `flush`, `file.id.get_file_image()` returns its bytes, for `write_sealed`.
    """
    return h5py.File(
        f"memory-{secrets.token_hex(8)}",
        "w",
        driver="core",
        backing_store=False,
        libver=LIBVER,
        meta_block_size=0,  # a file that is not closed would keep the rest of such a block
        **options,
    )


def create_masks(file: h5py.File, count: int, canvas: int, compression: str) -> h5py.Dataset:
    """Create the dataset of `count` masks: a chunk of canvas x canvas each, checksummed."""
    return file.create_dataset(
        "masks",
        shape=(count, canvas, canvas),
        dtype="u1",
        chunks=(1, canvas, canvas),
        fletcher32=True,
        **COMPRESSIONS[compression],
    )


def content_digest(
    checks: np.ndarray, status: np.ndarray, mask_size: np.ndarray, image_size: np.ndarray
) -> str:
    """Return the SHA-256 in hex of a shard's rows, which tells two shards apart.

    checks : uint32 (N,), CRC-32 of each stored chunk, compressed and with its checksum; 0 where
        there is none.
    status : uint8 (N,);  mask_size, image_size : uint32 (N, 2)
    """
    total = hashlib.sha256()
    for array in (checks, status, mask_size, image_size):
        total.update(np.ascontiguousarray(array, array.dtype.newbyteorder("<")).tobytes())
    return total.hexdigest()


def attributes_digest(attributes: Mapping[str, Any]) -> str:
    """Return the digest of attributes, texts and whole numbers, in the order of their names."""
    pairs = ((name, str(attributes[name])) for name in sorted(attributes))
    return texts_digest(text.encode("utf-8", "surrogateescape") for pair in pairs for text in pair)


def shard_name(number: int) -> str:
    """Return the file name of shard `number`, counted from 0."""
    return f"shard-{number:05d}.h5"


def shard_paths(folder: str | os.PathLike) -> list[Path]:
    """Return the finished shard files of a folder, by number."""
    paths = [path for path in Path(folder).iterdir() if _SHARD.fullmatch(path.name)]
    return sorted(paths, key=lambda path: (len(path.name), path.name))


_SHARD = re.compile(r"shard-\d{5,}\.h5")


@dataclass(frozen=True)
class ShardHeader:
    """A shard's root attributes."""

    path: Path
    version: int  # of the format
    number: int  # this shard's, from 0
    count: int  # shards in the set
    images: int  # rows in this shard
    canvas: int  # S: masks are rasters of S x S
    method: str
    parameters: dict[str, Any]
    software: dict[str, str]
    set_id: str  # tells sets of the same listing and parameters apart; empty where nothing does
    keys_digest: str  # of this shard's keys
    listing_digest: str  # of all keys of the image folder
    content_digest: str  # of this shard's masks, sizes and statuses
    error_digest: str  # of this shard's error texts; empty in version 1


def read_attributes(file: h5py.File, digest: str) -> dict[str, str | int]:
    """Return the root attributes but `digest`, which must be theirs; ValueError where it is not."""
    attributes: dict[str, str | int] = {}
    for name, value in file.attrs.items():
        if not isinstance(value, str | np.integer):
            raise ValueError(f"the attribute {name!r} is neither text nor a whole number")
        attributes[name] = value if isinstance(value, str) else int(value)
    if attributes.pop(digest, None) != attributes_digest(attributes):
        raise ValueError("its attributes are not those it was made with")
    return attributes


def read_header(file: h5py.File | str | os.PathLike) -> ShardHeader:
    """Read a shard's header; UserError when it is foreign, incomplete, damaged or too new.

    From version 2 on the attributes are compared with their digest.
    """
    if not isinstance(file, h5py.File):
        with open_shard(file) as opened:
            return read_header(opened)
    name = os.fsdecode(file.filename)
    with reading(name):
        if _attribute(file, "format") != FORMAT:
            raise UserError(f"{name!r} is not a mask shard of DiLo; move it to another folder.")
        version = _attribute(file, "format_version")
        if version not in _READABLE:
            raise UserError(
                f"{name!r} has version {version!r:.40} of the shard format, this program reads "
                f"{_READABLE[0]} to {VERSION}; use the version of DiLo that wrote it."
            )
        if _attribute(file, "complete") != 1:
            raise damaged(name, "it is not complete")
        attributes = dict(file.attrs) if version == 1 else read_attributes(file, "header_digest")
        return ShardHeader(
            path=Path(name),
            version=version,
            number=int(attributes["shard_number"]),
            count=int(attributes["shard_count"]),
            images=int(attributes["image_count"]),
            canvas=int(own_dataset(file, "masks").shape[-1]),
            method=str(attributes["method"]),
            parameters=json.loads(attributes["parameters"]),
            software=json.loads(attributes["software"]),
            set_id=str(attributes.get("set_id", "")),
            keys_digest=str(attributes["keys_digest"]),
            listing_digest=str(attributes["listing_digest"]),
            content_digest=str(attributes["content_digest"]),
            error_digest=str(attributes.get("error_digest", "")),
        )


def _attribute(file: h5py.File, name: str) -> str | int | None:
    """Return an attribute; None where it is missing or neither a text nor a whole number."""
    value = file.attrs.get(name)
    return (
        int(value) if isinstance(value, np.integer) else value if isinstance(value, str) else None
    )


def software_versions() -> dict[str, str]:
    """Return the versions of software that a mask may depend on, by name."""
    versions = {
        "python": platform.python_version(),
        "opencv": cv2.__version__,
        "pillow": PIL.__version__,
        "h5py": h5py.__version__,
        "hdf5": h5py.version.hdf5_version,
    }
    for name in ("dilo", "numpy", "scipy", "numba"):
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:  # run from a folder of sources
            versions[name] = "unknown"
    return versions


# ---- writing -------------------------------------------------------------------------------------


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
        self._raster = np.zeros((1, canvas, canvas), np.uint8)
        # without a chunk cache: a write goes through the filters at once
        self._file = file_in_memory(rdcc_nbytes=0)
        self._masks = create_masks(self._file, 1, self.canvas, self.compression).id

    def encode(self, mask: np.ndarray) -> Chunk:
        """Encode a mask, uint8 (h, w) with 1 <= h, w <= canvas; ValueError where it is larger."""
        height, width = mask.shape
        self._raster[0, :height, :width] = mask
        self._raster[0, height:] = 0
        self._raster[0, :height, width:] = 0
        self._masks.write(h5py.h5s.ALL, h5py.h5s.ALL, self._raster)
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
        assert not self._written[row], f"row {row} is written twice"
        assert (chunk is None) == (status > Status.FLAT), f"{status!r} does not go with its mask"
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
        assert self._written.all(), f"row {self._written.argmin()} was not written"
        image, chunks = self._assemble()
        self.path.with_name(INDEX_NAME).unlink(missing_ok=True)
        write_sealed(self.path, image, apart=chunks)  # they have `checks`

    def _assemble(self) -> tuple[bytes, list[tuple[int, int]]]:
        """Return the shard's bytes, and (offset, bytes) of its chunks, each let go when copied."""
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
