"""Members of a zip file, stored or deflated."""

import contextlib
import struct
import zipfile
from collections.abc import Iterator

from data.images.archives import Block, Member

_PACKINGS = {zipfile.ZIP_STORED: "", zipfile.ZIP_DEFLATED: "deflate"}

_HEADER = 30  # bytes of a local header before name and extra field, whose lengths end it


def members(path: str) -> Iterator[Member]:
    """Yield the files; encrypted ones too, and such as are compressed in a way that is not read.

    zipfile.BadZipFile and others: it is damaged.
    """
    with zipfile.ZipFile(path) as archive, open(path, "rb") as file:
        for member in archive.infolist():
            if member.is_dir():
                continue
            file.seek(member.header_offset + _HEADER - 4)
            lengths = sum(struct.unpack("<HH", file.read(4)))
            offset = member.header_offset + _HEADER + lengths
            name, stored, size = _name(member), member.compress_size, member.file_size
            packing = _PACKINGS.get(member.compress_type, "unknown")
            packing = "encrypted" if member.flag_bits & 1 else packing
            if packing:
                block = Block("", offset, stored, size, packing)
                yield Member(name, 0, size, block, member.CRC)
            else:
                yield Member(name, offset, size, crc=member.CRC)


def _name(member: zipfile.ZipInfo) -> str:
    """Return a file's name as programs write it that do not keep to the standard."""
    name = member.filename
    if not member.flag_bits & 0x800:  # not declared as UTF-8, but macOS writes nothing else
        with contextlib.suppress(UnicodeError):
            name = name.encode("cp437").decode("utf-8")
    return name if "/" in name else name.replace("\\", "/")  # as .NET once wrote them
