"""The seal of a shard or an index: a digest of all its bytes but the masks', behind the HDF5 file.

HDF5 may crash or never end on a file that is damaged, so the bytes are compared before it opens it.
What follows the end that an HDF5 file declares is nothing to HDF5. `docs/shard-format.md` has the
layout.
"""

import hashlib
import os
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

from data.files import replacing

_MAGIC = b"DiLoSeal"
_END = struct.Struct("<Q32s8s")  # how many stretches, SHA-256, magic
_STRETCH = struct.Struct("<QQ")  # offset, bytes
_SUPERBLOCK = struct.Struct("<8sBBBBQQQQ")  # signature, version, sizes, flags, addresses; the end
_SIGNATURE = b"\x89HDF\r\n\x1a\n"
_PIECE = 1 << 22  # bytes read at a time


def write_sealed(path: Path, image: bytes, apart: Iterable[tuple[int, int]] = ()) -> None:
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
