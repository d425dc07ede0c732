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

FORMAT = "dilo-mask-shard"
VERSION = 1
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

    After `flush`, `file.id.get_file_image()` returns its bytes, for `data.files.write_whole`.
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
    number: int  # this shard's, from 0
    count: int  # shards in the set
    images: int  # rows in this shard
    canvas: int  # S: masks are rasters of S x S
    method: str
    parameters: dict[str, Any]
    software: dict[str, str]
    keys_digest: str  # of this shard's keys
    listing_digest: str  # of all keys of the image folder
    content_digest: str  # of this shard's masks, sizes and statuses


def open_shard(path: str | os.PathLike) -> h5py.File:
    """Open an HDF5 file for reading, without locks, for network file systems.

    And without HDF5's chunk cache, up to 8 MB a shard, which masks read at random never hit.
    OSError, as the system says it; UserError where the file is not HDF5.
    """
    try:
        try:
            return h5py.File(path, "r", locking=False, rdcc_nbytes=0)
        except OSError as error:
            if "file locking flag" not in str(error):
                raise
            # somebody in this process has it open with locks, and HDF5 wants all alike
            return h5py.File(path, "r", rdcc_nbytes=0)
    except OSError as error:
        if error.errno:  # the system's, which says nothing of what is in the file
            raise OSError(error.errno, os.strerror(error.errno), os.fspath(path)) from None
        raise damaged(path, f"cannot be opened as HDF5: {error}") from None


def damaged(path: str | os.PathLike, reason: object) -> UserError:
    """Return the error that says that a shard is damaged, and what to do."""
    return UserError(
        f"{os.fspath(path)!r} is damaged ({' '.join(str(reason).split())}); "
        "delete it and run the command that wrote it again."
    )


def read_header(file: h5py.File | str | os.PathLike) -> ShardHeader:
    """Read a shard's header; UserError when it is foreign, incomplete or of another version."""
    if not isinstance(file, h5py.File):
        with open_shard(file) as opened:
            return read_header(opened)
    name = os.fsdecode(file.filename)
    attributes = file.attrs
    if attributes.get("format") != FORMAT:
        raise UserError(f"{name!r} is not a mask shard of DiLo; move it to another folder.")
    version = int(attributes.get("format_version", -1))
    if version != VERSION:
        raise UserError(
            f"{name!r} has version {version} of the shard format, this program reads {VERSION}; "
            "use the version of DiLo that wrote it."
        )
    if not attributes.get("complete", 0):
        raise damaged(name, "it is not complete")
    try:
        return ShardHeader(
            path=Path(name),
            number=int(attributes["shard_number"]),
            count=int(attributes["shard_count"]),
            images=int(attributes["image_count"]),
            canvas=int(file["masks"].shape[1]),
            method=str(attributes["method"]),
            parameters=json.loads(attributes["parameters"]),
            software=json.loads(attributes["software"]),
            keys_digest=str(attributes["keys_digest"]),
            listing_digest=str(attributes["listing_digest"]),
            content_digest=str(attributes["content_digest"]),
        )
    except (KeyError, ValueError, TypeError, IndexError) as error:
        raise damaged(name, f"its header cannot be read: {error}") from None


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
