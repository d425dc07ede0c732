"""The shard format: names, status codes, compression, and the header that a reader checks first.

`docs/shard-format.md` is the specification; this module is its vocabulary.
"""

import hashlib
import importlib.metadata
import json
import os
import platform
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any

import cv2
import h5py
import hdf5plugin
import numpy as np
import PIL

from data.errors import UserError
from data.keys import texts_digest
from data.masks.opening import damaged, open_shard, own_dataset, reading

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
    if compression not in COMPRESSIONS:
        raise UserError(
            f"the compression {compression!r} is not known; choose {' or '.join(COMPRESSIONS)}."
        )
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


def own_columns(file: h5py.File, header: ShardHeader) -> dict[str, h5py.Dataset]:
    """Return a shard's datasets; ValueError where one is not of the declared rows and type."""
    columns = {}
    for name, tail, kind in (
        ("masks", (header.canvas, header.canvas), "u1"),
        ("keys", (), "text"),
        ("status", (), "u1"),
        ("error", (), "text"),
        ("mask_size", (2,), "u4"),
        ("image_size", (2,), "u4"),
        *([("checks", (), "u4")] if header.version > 1 else []),
    ):
        column = columns[name] = own_dataset(file, name)
        shape = (header.images, *tail)
        if column.shape != shape:
            raise ValueError(f"{name} is {column.shape}, it should be {shape}")
        is_text = h5py.check_string_dtype(column.dtype) is not None
        if not (is_text if kind == "text" else column.dtype.str[1:] == kind):
            raise ValueError(f"{name} is of another type ({column.dtype})")
    canvas = header.canvas
    if not 0 < canvas <= MAX_CANVAS or columns["masks"].chunks != (1, canvas, canvas):
        raise ValueError(f"masks has chunks of {columns['masks'].chunks}")
    return columns


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
                f"{name!r} has version {version} of the shard format, this program reads "
                f"{_READABLE[0]} to {VERSION}; use the version of DiLo that wrote it."
            )
        if _attribute(file, "complete") != 1:
            raise damaged(name, "it is not complete")
        attributes = dict(file.attrs) if version == 1 else read_attributes(file, "header_digest")
        parameters, software = (json.loads(attributes[what]) for what in ("parameters", "software"))
        if not (isinstance(parameters, dict) and isinstance(software, dict)):
            raise ValueError("parameters and software are not JSON objects")
        return ShardHeader(
            path=Path(name),
            version=version,
            number=int(attributes["shard_number"]),
            count=int(attributes["shard_count"]),
            images=int(attributes["image_count"]),
            canvas=int(own_dataset(file, "masks").shape[-1]),
            method=str(attributes["method"]),
            parameters=parameters,
            software=software,
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
