"""Members of a tar file, and of tar files inside it, as ImageNet's `ILSVRC2012_img_train.tar`."""

import tarfile
from collections.abc import Iterator
from typing import IO

from data.images.archives import Member, damaged


def members(path: str) -> Iterator[Member]:
    """Yield the regular files; those of an inner `n01440764.tar` lie in the folder `n01440764`.

    UserError: it is damaged, or compressed as a whole, which has no random access.
    """
    try:
        with open(path, "rb") as file:
            yield from _members(file, "", 0)
    except tarfile.TarError as error:
        raise damaged(path, error) from None


def _members(file: IO[bytes], folder: str, start: int) -> Iterator[Member]:
    with tarfile.open(fileobj=file, mode="r:") as tar:
        while (member := tar.next()) is not None:
            tar.members = []  # it would keep all of them
            if not member.isreg() or member.issparse():
                continue
            offset = start + member.offset_data
            if member.name.lower().endswith(".tar"):
                inner = tar.extractfile(member)
                yield from _members(inner, f"{folder}{member.name[:-4]}/", offset)
            else:
                yield Member(folder + member.name, offset, member.size)
