"""Images inside archives: listed once, then read at their offsets; nothing is unpacked.

A path may go on inside an archive as if it were a folder: `photos.tar/cats/1.jpg`. A format is a
module that lists its members, and a line of `FORMATS`.
"""

import errno
import os
import pkgutil
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from data.errors import UserError
from data.files import write_whole
from data.images.limits import MAX_BYTES, TooLarge
from data.keys import Keys, leads_out, texts_digest

FORMATS = {
    ".tar": "data.images.archives.tar_file:members",
    ".zip": "data.images.archives.zip_file:members",
}
"""By ending: the function from a file's path to its `Member`s."""

_VERSION = 1  # of the index on disk
_LARGEST = 2 * MAX_BYTES  # of a member, bytes; `data.images.limits` is stricter about most


class Member(NamedTuple):
    """A regular file in an archive.

    offset : of its data in the archive, bytes.
    stored, size : bytes that it takes there, and has; fewer are stored where it is deflated.
    """

    name: str
    offset: int
    stored: int
    size: int


class Index(NamedTuple):
    """All members of an archive, by their keys; `places` int64 (N, 3): offset, stored, size."""

    keys: Keys
    places: np.ndarray


def split(path: str | os.PathLike) -> tuple[str, str] | None:
    """Return the archive that a path goes through, and what follows, "" for the archive itself.

    None where it goes through none.
    """
    whole, after = os.fspath(path), ""
    while True:
        if whole.lower().endswith(tuple(FORMATS)) and os.path.isfile(whole):
            return whole, after
        whole, name = os.path.split(whole)
        if not name:
            return None
        after = f"{name}/{after}" if after else name


def open_file(path: str | os.PathLike) -> BinaryIO:
    """Open a file, or one inside an archive, for reading; OSError, zlib.error or TooLarge."""
    try:
        return open(path, "rb")
    except NotADirectoryError:
        if (inside := split(path)) is None:
            raise
    archive, key = inside
    index = index_of(archive)
    try:
        offset, stored, size = index.places[index.keys.find(key)].tolist()
    except KeyError:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT)) from None
    if size > _LARGEST:
        raise TooLarge(f"a file of {size / 1e9:.1f} GB, more than the limit of {_LARGEST / 1e9:g}")
    with open(archive, "rb") as file:
        file.seek(offset)
        data = file.read(stored)
    if len(data) < stored:
        raise OSError("the archive is cut off")
    return BytesIO(data if stored == size else zlib.decompressobj(-15).decompress(data, size))


def members_below(path: str | os.PathLike) -> Iterator[str]:
    """Yield the keys of all files below an archive, or a folder inside one, relative to it."""
    inside = split(path)
    if inside is not None:
        archive, folder = inside
        keys, prefix = index_of(archive).keys, f"{folder}/" if folder else ""
        yield from (keys[row].removeprefix(prefix) for row in keys.beginning_with(prefix))


def is_folder(path: str | os.PathLike) -> bool:
    """Whether there is such a folder, or such an archive, or such a folder inside one."""
    return os.path.isdir(path) or next(members_below(path), None) is not None


def index_of(archive: str) -> Index:
    """Return an archive's index, kept beside it or among the temporary files, or made anew.

    UserError: It is damaged.
    """
    facts = os.stat(archive)
    return _index(os.path.abspath(archive), facts.st_size, facts.st_mtime_ns)


@lru_cache(maxsize=4096)
def _index(archive: str, size: int, modified: int) -> Index:
    mark = np.array([_VERSION, size, modified])
    name = f".{os.path.basename(archive)}.index.npz"
    beside = Path(archive).with_name(name)
    digest = texts_digest([os.fsencode(archive)])[:16]
    elsewhere = Path(tempfile.gettempdir()) / f"dilo-{os.getuid()}" / f"{digest}.npz"
    for path in (beside, elsewhere):
        try:
            with np.load(path, allow_pickle=False) as file:
                if np.array_equal(file["mark"], mark):
                    return Index(Keys.from_array(file["keys"]), file["places"])
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            continue
    index = _scan(archive)
    buffer = BytesIO()
    np.savez(buffer, mark=mark, keys=index.keys.array, places=index.places)
    for path in (beside, elsewhere):
        try:
            path.parent.mkdir(mode=0o700, exist_ok=True)
            write_whole(path, buffer.getvalue())
            break
        except OSError:
            continue
    return index


def _scan(archive: str) -> Index:
    """List the members. Folders that hold everything are left out of the keys.

    So `tar cf photos.tar photos` has the keys of the folder `photos`.
    """
    ending = next(ending for ending in FORMATS if archive.lower().endswith(ending))
    members: Callable[[str], Iterator[Member]] = pkgutil.resolve_name(FORMATS[ending])
    places: dict[str, tuple[int, int, int]] = {}  # of several of a name, the last counts
    for member in members(archive):
        name = "/".join(part for part in member.name.split("/") if part not in ("", "."))
        if not leads_out(name) and not any(part.startswith(".") for part in name.split("/")):
            places[name] = member[1:]
    folders = {name.rpartition("/")[0] + "/" for name in places} or {"/"}
    common = os.path.commonpath([min(folders).lstrip("/"), max(folders).lstrip("/")])
    start = f"{common}/" if common else ""
    keys = Keys(name.removeprefix(start) for name in places)
    ordered = [places[start + key] for key in keys]
    return Index(keys, np.array(ordered, np.int64).reshape(-1, 3))


def damaged(archive: str, error: Exception) -> UserError:
    """Return the sentence that says what is wrong with an archive."""
    return UserError(f"{archive!r} cannot be read ({' '.join(str(error).split())}); make it anew.")
