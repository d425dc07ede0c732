"""Members of a zip file, stored or deflated."""

import contextlib
import struct
import zipfile
from collections.abc import Iterator
from typing import BinaryIO

from data.images.archives import Block, Member

_PACKINGS = {zipfile.ZIP_STORED: "", zipfile.ZIP_DEFLATED: "deflate"}

_HEADER = struct.Struct("<4s22xHH")  # of a file: signature, and lengths of name and extra field


def members(path: str) -> Iterator[Member]:
    """Yield the files; encrypted ones too, and such as are compressed in a way that is not read.

    zipfile.BadZipFile and others: it is damaged.
    """
    with zipfile.ZipFile(path) as archive, open(path, "rb") as file:
        for member in archive.infolist():
            if member.is_dir():
                continue
            offset = _offset(member, file)
            name, stored, size = _name(member), member.compress_size, member.file_size
            packing = _PACKINGS.get(member.compress_type, "unknown")
            packing = "encrypted" if member.flag_bits & 1 else packing
            if packing:
                block = Block("", offset, stored, size, packing)
                yield Member(name, 0, size, block, member.CRC)
            else:
                yield Member(name, offset, size, crc=member.CRC)


def _offset(member: zipfile.ZipInfo, file: BinaryIO) -> int:
    """Return where a file's bytes begin, behind its own header, which must have the same name."""
    file.seek(member.header_offset)
    signature, name_length, extra_length = _HEADER.unpack(file.read(_HEADER.size))
    name = member.orig_filename.encode("utf-8" if member.flag_bits & 0x800 else "cp437")
    if signature != b"PK\3\4" or file.read(name_length) != name:
        raise zipfile.BadZipFile(f"its directory and its file at {member.header_offset} differ")
    return member.header_offset + _HEADER.size + name_length + extra_length


def _name(member: zipfile.ZipInfo) -> str:
    """Return a file's name as programs write it that do not keep to the standard."""
    name = member.filename
    if not member.flag_bits & 0x800:  # not declared as UTF-8, but macOS writes nothing else
        with contextlib.suppress(UnicodeError):
            name = name.encode("cp437").decode("utf-8")
    return name if "/" in name else name.replace("\\", "/")  # as .NET once wrote them
