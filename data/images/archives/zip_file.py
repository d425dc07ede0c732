"""Members of a zip file, stored or deflated."""

import struct
import zipfile
from collections.abc import Iterator

from data.images.archives import Block, Member, damaged

_HEADER = 30  # bytes of a local header before name and extra field, whose lengths end it


def members(path: str) -> Iterator[Member]:
    """Yield the files; encrypted ones, and compressed in another way, are left out.

    UserError: it is damaged.
    """
    try:
        with zipfile.ZipFile(path) as archive, open(path, "rb") as file:
            for member in archive.infolist():
                plain = member.compress_type in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
                if member.is_dir() or not plain or member.flag_bits & 1:
                    continue
                file.seek(member.header_offset + _HEADER - 4)
                lengths = sum(struct.unpack("<HH", file.read(4)))
                offset = member.header_offset + _HEADER + lengths
                name, stored, size = member.filename, member.compress_size, member.file_size
                if member.compress_type == zipfile.ZIP_STORED:
                    yield Member(name, offset, size)
                else:
                    yield Member(name, 0, size, Block("", offset, stored, size, "deflate"))
    except (zipfile.BadZipFile, struct.error) as error:
        raise damaged(path, error) from None
