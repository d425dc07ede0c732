"""Members of a tar file, and of tar files inside it, as ImageNet's `ILSVRC2012_img_train.tar`."""

import posixpath
import tarfile
from collections.abc import Iterator
from typing import IO

from data.images.archives import Link, Member

_DEEPEST = 4  # tar files in tar files


def members(path: str) -> Iterator[Member | Link]:
    """Yield the files; those of an inner `n01440764.tar` lie in the folder `n01440764`.

    tarfile.TarError and others: it is damaged, or compressed as a whole: no random access.
    """
    with open(path, "rb") as file:
        yield from _members(file, "", 0, 0)


def _members(file: IO[bytes], folder: str, start: int, depth: int) -> Iterator[Member | Link]:
    if depth > _DEEPEST:
        raise ValueError(f"tar files in tar files, more than {_DEEPEST} deep")
    with tarfile.open(fileobj=file, mode="r:") as tar:
        while (member := tar.next()) is not None:
            tar.members = []  # it would keep all of them
            name = folder + member.name
            if member.islnk():
                yield Link(name, folder + member.linkname)
            elif member.issym():
                there = posixpath.join(posixpath.dirname(name), member.linkname)
                yield Link(name, posixpath.normpath(there))
            if not member.isreg() or member.issparse():
                continue
            offset = start + member.offset_data
            if member.name.lower().endswith(".tar"):
                inner = tar.extractfile(member)
                yield from _members(inner, f"{name[:-4]}/", offset, depth + 1)
            else:
                yield Member(name, offset, member.size)
        _check_end(file, tar.offset)


def _check_end(file: IO[bytes], offset: int) -> None:
    """Tell a tar's end mark, zeros, from a damaged header, at which tarfile ends in silence."""
    file.seek(offset)
    block = file.read(tarfile.BLOCKSIZE)
    if block.strip(b"\0"):
        raise tarfile.ReadError(f"its header at byte {offset} is damaged")
    if not block:
        raise tarfile.ReadError(f"it is cut off at byte {offset}, where no end is marked")
