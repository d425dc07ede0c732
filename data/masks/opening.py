"""Open HDF5 files that may be damaged, on which HDF5 may crash or never end.

A shard and an index have a seal, a digest of all their bytes but the masks', behind the HDF5 file:
the bytes are compared before HDF5 opens them. What follows the end that an HDF5 file declares is
nothing to HDF5; `docs/shard-format.md` has the layout. A file without a seal is first read in a
process of its own, where that may crash or never end without any harm.
"""

import contextlib
import errno
import hashlib
import os
import stat
import struct
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import BinaryIO

import h5py

from data import errors
from data.errors import UserError
from data.files import replacing
from data.processes import Alive, done_apart, is_apart


class Locked(UserError):
    """A file that another process holds a lock on, where HDF5 is told to mind locks."""


_DAMAGE = {"remedy": "delete it and run the command that wrote it again", "verb": "is damaged"}
damaged = partial(errors.damaged, **_DAMAGE)
reading = partial(errors.damage_told, **_DAMAGE)


_outlasted: set[tuple[int, ...]] = set()  # files without a seal that HDF5 was seen to survive


def open_shard(path: str | os.PathLike) -> h5py.File:
    """Open an HDF5 file for reading, without locks, for network file systems.

    And without HDF5's chunk cache, up to 8 MB a shard, which masks read at random never hit. What
    HDF5 may crash or never end on is refused before: bytes that are not those that were sealed, and
    a file without a seal that a process of its own, once, did not read to its end.

    OSError, as the system says it; UserError where the file is no regular file, not HDF5 or
    damaged, or, `Locked`, where the environment asks for locks and another process holds one.
    """
    facts = os.stat(path)
    if not stat.S_ISREG(facts.st_mode):  # to open a pipe may never end
        raise UserError(f"{os.fspath(path)!r} is not a regular file; put one in its place.")
    reason = broken_seal(path)
    file = facts.st_dev, facts.st_ino, facts.st_size, facts.st_mtime_ns
    if reason is None and file not in _outlasted and not is_apart():
        (outcome,) = done_apart(_read_to_the_end, [path])
        reason = f"HDF5 fails at it, {outcome}" if outcome else ""
        if not reason:
            _outlasted.add(file)
    if reason:
        raise damaged(path, reason)
    with reading(path):
        return _open(path)


def _open(path: str | os.PathLike) -> h5py.File:
    try:
        return h5py.File(path, "r", locking=False, rdcc_nbytes=0)
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EACCES) and "unable to lock" in str(error):
            raise Locked(
                f"{os.fspath(path)!r} is locked by another process, and HDF5 minds locks "
                "because HDF5_USE_FILE_LOCKING is set; wait for its end, or set "
                "HDF5_USE_FILE_LOCKING=FALSE."
            ) from None
        if "file locking flag" not in str(error):
            if error.errno:
                raise
            raise ValueError(f"cannot be opened as HDF5: {error}") from None
    # somebody in this process has it open with locks, and HDF5 wants all alike
    return h5py.File(path, "r", rdcc_nbytes=0)


def _read_to_the_end(path: str | os.PathLike, alive: Alive) -> str:
    """Read all that readers have HDF5 interpret; return ""; what is wrong is theirs to say."""
    with contextlib.suppress(Exception), _open(path) as file:
        list(file.attrs.items())
        groups = [file[name] for name in ("shards", "table") if name in file]
        for group in (file, *groups):
            for name in group:
                alive()
                with contextlib.suppress(Exception):
                    dataset = own_dataset(group, name)
                    if name == "masks":
                        dataset.id.chunk_iter(lambda chunk: alive())
                    elif dataset.chunks or dataset.dtype.hasobject:  # else it is a run of bytes
                        dataset[:]
    return ""


def own_dataset(file: h5py.File | h5py.Group, name: str) -> h5py.Dataset:
    """Return a dataset that lies in this file, and declares no more than the file can hold.

    Nothing is followed out of the file: no link but a hard one, no external and no virtual storage.
    ValueError says what is wrong with it.
    """
    link = file.get(name, getlink=True)
    if not isinstance(link, h5py.HardLink):
        raise ValueError(f"there is no dataset {name!r}" if link is None else f"{name} is a link")
    dataset = file[name]
    if not isinstance(dataset, h5py.Dataset) or dataset.shape is None:
        raise ValueError(f"{name} is not an array")
    properties = dataset.id.get_create_plist()
    if properties.get_layout() == h5py.h5d.VIRTUAL or properties.get_external_count():
        raise ValueError(f"{name} refers to other files")
    if name != "masks" and dataset.nbytes > dataset.file.id.get_filesize():
        raise ValueError(f"{name} declares {dataset.nbytes} bytes, more than the file has")
    return dataset


# ---- the seal ------------------------------------------------------------------------------------

_MAGIC = b"DiLoSeal"
_END = struct.Struct("<Q32s8s")  # how many stretches, SHA-256, magic
_STRETCH = struct.Struct("<QQ")  # offset, bytes
_SUPERBLOCK = struct.Struct("<8sBBBBQQQQ")  # signature, version, sizes, flags, addresses; the end
_SIGNATURE = b"\x89HDF\r\n\x1a\n"
_PIECE = 1 << 22  # bytes read at a time


def write_sealed(path: Path, image: bytes, apart: Iterable[tuple[int, int]]) -> None:
    """Write an HDF5 file and its seal, whole or not at all.

    apart : (offset, bytes) of what the seal leaves out, because it has checksums of its own.
    """
    with replacing(path) as temporary:
        temporary.write_bytes(image)
        with open(temporary, "r+b") as file:
            seal = _seal(file, len(image), apart)
            file.seek(len(image))
            file.write(seal)


def broken_seal(path: str | os.PathLike) -> str | None:
    """Return what is wrong with a file's bytes; empty where nothing is, None where no seal is.

    Files of older versions have none, nor do those that were opened for writing since.
    """
    with open(path, "rb") as file:
        size, end = os.fstat(file.fileno()).st_size, _declared_end(file)
        if end is None or size <= end:
            return None  # or no whole HDF5 file, as HDF5 will tell
        file.seek(max(end, size - _END.size))
        tail = file.read()
        count, digest, magic = _END.unpack(tail) if len(tail) == _END.size else (0, b"", b"")
        if magic != _MAGIC or end + count * _STRETCH.size + _END.size != size:
            return "its seal is damaged"
        file.seek(end)
        table = file.read(count * _STRETCH.size)
        stretches = list(_STRETCH.iter_unpack(table))
        if any(offset + length > end for offset, length in stretches):
            return "its seal is damaged"
        if _digest(file, table, stretches) != digest:
            return "its bytes are not those it was made with"
    return ""


def _declared_end(file: BinaryIO) -> int | None:
    """Return where an HDF5 file says that it ends; None where it does not say so as ours do."""
    file.seek(0)
    head = file.read(_SUPERBLOCK.size)
    if len(head) < _SUPERBLOCK.size:
        return None
    signature, version, offsets, _, _, base, _, end, _ = _SUPERBLOCK.unpack(head)
    ours = signature == _SIGNATURE and version in (2, 3) and offsets == 8 and base == 0
    return end if ours else None


def _seal(file: BinaryIO, end: int, apart: Iterable[tuple[int, int]]) -> bytes:
    """Return the seal of a file's bytes up to `end`."""
    stretches, position = [], 0
    for offset, length in sorted(apart):
        if offset > position:
            stretches.append((position, offset - position))
        position = offset + length
    stretches.append((position, end - position))
    table = b"".join(_STRETCH.pack(*stretch) for stretch in stretches)
    return table + _END.pack(len(stretches), _digest(file, table, stretches), _MAGIC)


def _digest(file: BinaryIO, table: bytes, stretches: Iterable[tuple[int, int]]) -> bytes:
    total = hashlib.sha256(table)
    for offset, length in stretches:
        file.seek(offset)
        while length > 0 and (piece := file.read(min(length, _PIECE))):
            total.update(piece)
            length -= len(piece)
    return total.digest()
