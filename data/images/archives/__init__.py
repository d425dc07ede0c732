"""Images inside archives: listed once, then read at their offsets; nothing is unpacked.

A path may go on inside an archive as if it were a folder: `photos.tar/cats/1.jpg`. A format is a
module that lists its members, and a line of `FORMATS`.
"""

import errno
import itertools
import json
import os
import pkgutil
import zlib
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from data.errors import UserError, damage_told
from data.files import open_regular, private_folder, write_whole
from data.images.limits import BESIDE_TORCH, TooLarge
from data.keys import Keys, leads_out, texts_digest
from data.processes import Alive, done_apart

FORMATS = {
    ".tar": "data.images.archives.tar_file:members",
    ".zip": "data.images.archives.zip_file:members",
    ".parquet": "data.images.archives.dataset:members",
    ".arrow": "data.images.archives.dataset:members",  # of a folder of them, too
}
"""By ending: the function from a file's path to its `Member`s."""

_PACKED = (".tar", ".zip")  # of files; a folder is never one
_ROWS = (".parquet", ".arrow")  # files of a dataset
_IMAGES = (".jpg", ".jpeg", ".png", ".webp")  # a folder that has such files is one of images

ROW = ".image"
"""Ends the keys of a dataset's rows."""

COLUMN = "column="
"""Begins the folders of a dataset that has several columns of images."""

ANEW = "make it anew"  # what to do with a damaged archive
_VERSION = 4  # of the index on disk
LARGEST = BESIDE_TORCH  # of a member, bytes; `data.images.limits` is stricter about most
_UNREAD = {
    "encrypted": "it is encrypted in its archive",
    "unknown": "its archive has compressed it in a way that is not read",
}
"""Packings of members that are there and cannot be read, and why."""
_PACKINGS = ("", "deflate", "snappy", "gzip", "zstd", "brotli", "lz4", *_UNREAD)


class Block(NamedTuple):
    """Bytes of a file in which members lie: all of them as they are, or some to be unpacked.

    file : its path in a folder that is an archive; "" for the archive.
    offset, stored, size : of packed bytes: where they begin, how many, and how many they become.
    packing : of `_PACKINGS`.
    """

    file: str = ""
    offset: int = 0
    stored: int = 0
    size: int = 0
    packing: str = ""


class Place(NamedTuple):
    """Where a member lies: its first byte in a block, and its bytes; -1: its file, whole.

    crc : their CRC-32; -1: the archive has none.
    """

    start: int
    size: int
    block: Block = Block()
    crc: int = -1


class Member(NamedTuple):
    """A regular file in an archive, and its `Place`."""

    name: str
    start: int
    size: int
    block: Block = Block()
    crc: int = -1


class Link(NamedTuple):
    """Another name of a member: target is that one's, as it is in the archive."""

    name: str
    target: str


class Index(NamedTuple):
    """All members of an archive.

    places : by `keys`, int64 (N, 4): start, size, the row of their block, and their CRC-32.
    blocks : int64 (M, 5): the row of the file, offset, stored, size, and the packing's number.
    files : bytes (dtype S) (K,).
    """

    keys: Keys
    places: np.ndarray
    blocks: np.ndarray
    files: np.ndarray


def split(path: str | os.PathLike) -> tuple[str, str] | None:
    """Return the archive that a path goes through, and what follows, "" for the archive itself.

    None where it goes through none.
    """
    whole, after = os.fspath(path), ""
    while True:
        if os.path.isdir(whole):
            return (whole, after) if is_dataset(whole) else None
        if whole.lower().endswith(tuple(FORMATS)) and os.path.isfile(whole):
            return whole, after
        whole, name = os.path.split(whole)
        if not name:
            return None
        after = f"{name}/{after}" if after else name


def is_dataset(folder: str) -> bool:
    """Whether a folder is a dataset: `save_to_disk`'s, or with files of rows and without images."""
    return _is_dataset(folder, os.stat(folder).st_mtime_ns)


@lru_cache(maxsize=1024)
def _is_dataset(folder: str, modified: int) -> bool:
    saved = {"state.json": "_data_files", "dataset_dict.json": "splits"}
    if any(entry in read_json(f"{folder}/{name}") for name, entry in saved.items()):
        return True
    rows = False
    for _, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        if any(name.lower().endswith(_IMAGES) for name in names):
            return False
        rows |= any(has_rows(name) for name in names)
    return rows


def has_rows(name: str) -> bool:
    """Whether a file is of rows, and neither hidden nor a cache of `datasets`."""
    return name.lower().endswith(_ROWS) and not name.startswith((".", "cache-", "tmp"))


def read_json(path: str) -> dict:
    """Return what `save_to_disk` wrote; nothing where it is not there, or somebody else's."""
    try:
        with open(path, encoding="utf-8") as file:
            return dict(json.load(file))
    except (OSError, ValueError, TypeError, RecursionError):
        return {}


_archive_of: dict[str, tuple[str, str]] = {}  # what `split` said of folders inside archives


def open_file(path: str | os.PathLike) -> BinaryIO:
    """Open a file, or one inside an archive, for reading; OSError, zlib.error or TooLarge."""
    folder, name = os.path.split(path)
    inside = _archive_of.get(folder)
    if inside is None:
        try:
            return open_regular(path)
        except (NotADirectoryError, FileNotFoundError):
            if (inside := split(folder)) is None:
                raise
        if len(_archive_of) < 100_000:
            _archive_of[folder] = inside
    archive, above = inside
    key = f"{above}/{name}" if above else name
    index = index_of(archive)
    try:
        start, size, row, crc = index.places[index.keys.find(key)].tolist()
    except KeyError:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT)) from None
    number, *where, packing = index.blocks[row].tolist()
    block = Block(os.fsdecode(index.files[number]), *where, _PACKINGS[packing])
    if block.packing in _UNREAD:
        raise OSError(_UNREAD[block.packing])
    if size < 0:
        return open_regular(_beside(archive, block.file))
    for bytes_ in (size, block.size):
        if bytes_ > LARGEST:
            raise TooLarge(
                f"a file of {bytes_ / 1e9:.1f} GB, more than the limit of {LARGEST / 1e9:g}"
            )
    if block.file and leads_out(block.file):
        raise OSError("its file leads out of the dataset's folder")
    file = os.path.join(archive, block.file) if block.file else archive
    if not block.packing:
        data = _read(file, start, size)
    elif block.size == size:
        data = unpacked(_read(file, block.offset, block.stored), block)
    else:
        data = _page(file, block)[start : start + size]
    if crc not in (-1, zlib.crc32(data)):
        raise OSError("its bytes are not those that its archive was made of (CRC-32)")
    return BytesIO(data)


def _read(path: str, offset: int, size: int) -> bytes:
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        data = os.pread(file, size, offset)
    finally:
        os.close(file)
    if len(data) < size:
        raise OSError("the archive is cut off")
    return data


@lru_cache(maxsize=1)  # who reads in order finds the next member there
def _page(path: str, block: Block) -> bytes:
    return unpacked(_read(path, block.offset, block.stored), block)


def unpacked(data: bytes, block: Block) -> bytes:
    """Return the bytes of a block that is packed."""
    if block.packing == "deflate":
        return zlib.decompressobj(-15).decompress(data, block.size)
    import pyarrow as pa

    codec = "lz4_raw" if block.packing == "lz4" else block.packing  # as Parquet means it
    return pa.Codec(codec).decompress(data, block.size, asbytes=True)


def _beside(archive: str, path: str) -> str:
    """Return a file that an archive names, which must be one in its folder."""
    folder = archive if os.path.isdir(archive) else os.path.dirname(archive) or "."
    if not path:
        link = archive.lower().endswith(_PACKED)
        raise OSError("there is no image behind this name" if link else "its row has no image")
    whole = os.path.realpath(os.path.join(folder, path))
    if not whole.startswith(os.path.join(os.path.realpath(folder), "")):
        raise OSError("its path leads out of the dataset's folder")
    return whole


def members_below(path: str | os.PathLike) -> Iterator[str]:
    """Yield the keys of all files below an archive, or a folder inside one, relative to it."""
    inside = split(path)
    if inside is None:
        return
    archive, folder = inside
    keys, prefix = index_of(archive).keys, f"{folder}/" if folder else ""
    if not folder and len(keys) and keys[0].startswith(COLUMN):
        columns = dict.fromkeys(key.partition("/")[0] for key in keys)
        such = f"{archive}/{keys[0].partition('/')[0]}"
        what = f"{archive!r} has several columns of images ({', '.join(columns)})"
        raise UserError(f"{what}; name one, such as {such!r}.")
    yield from (keys[row].removeprefix(prefix) for row in keys.beginning_with(prefix))


def is_folder(path: str | os.PathLike) -> bool:
    """Whether there is such a folder, or such an archive, or such a folder inside one."""
    return os.path.isdir(path) or next(members_below(path), None) is not None


def index_of(archive: str) -> Index:
    """Return an archive's index, kept beside it or among the temporary files, or made anew.

    UserError: It is damaged.
    """
    facts = os.stat(archive)
    return _index(archive, facts.st_size, facts.st_mtime_ns)


@lru_cache(maxsize=4096)
def _index(archive: str, size: int, modified: int) -> Index:
    archive = os.path.abspath(archive)
    with damage_told(archive, ANEW):
        files = [archive]
        if os.path.isdir(archive):
            parts = pkgutil.resolve_name("data.images.archives.dataset:data_files")(archive)
            files = [os.path.join(archive, part.path) for part in parts]
        facts = [(path, os.stat(path)) for path in files]
    mark = texts_digest(
        os.fsencode(f"{_VERSION} {os.path.relpath(path, archive)} {f.st_size} {f.st_mtime_ns}")
        for path, f in facts
    )
    paths = [Path(archive).with_name(f".{os.path.basename(archive)}.index.npz")]
    if (private := private_folder("dilo-archives")) is not None:
        paths.append(private / f"{texts_digest([os.fsencode(archive)])[:16]}.npz")
    for path in paths:
        if (kept := _kept(path, mark)) is not None:
            return kept
    with damage_told(archive, ANEW):
        index = _listed(archive)
    buffer = BytesIO()
    arrays = index._replace(keys=index.keys.array)._asdict()
    np.savez(buffer, mark=f"{mark} {_digest(arrays.values())}", **arrays)
    for path in paths:
        try:
            write_whole(path, buffer.getvalue())
            break
        except OSError:
            continue
    return index


def _kept(path: Path, mark: str) -> Index | None:
    """Return a kept index; None where there is none, or not of these files, or it is damaged."""
    try:
        if not path.is_file():  # to open a pipe may never end
            return None
        with np.load(path, allow_pickle=False) as file:
            arrays = [file[name] for name in Index._fields]
            if str(file["mark"]) != f"{mark} {_digest(arrays)}":
                return None
            return Index(Keys.from_array(arrays[0]), *arrays[1:])
    except Exception:  # NumPy's and zipfile's for damaged bytes are of many kinds
        return None


def _digest(arrays: Iterable[np.ndarray]) -> str:
    """Return the digest of arrays: types, shapes and values."""
    facts = ((str((a.dtype, a.shape)).encode(), a.tobytes()) for a in arrays)
    return texts_digest(itertools.chain.from_iterable(facts))


def _listed(archive: str) -> Index:
    """List the members; a dataset's by a process apart, which pyarrow aborts for some damage."""
    if archive.lower().endswith(_PACKED):
        return _scan(archive)
    (outcome,) = done_apart(_scan_apart, [archive])
    if isinstance(outcome, Exception):
        raise outcome
    if isinstance(outcome, str):
        raise ValueError(outcome)
    return outcome


def _scan_apart(archive: str, alive: Alive) -> Index | Exception:
    try:
        with damage_told(archive, ANEW):
            return _scan(archive, alive)
    except Exception as error:  # a sentence, the system's own, or exhausted memory
        return error


def _scan(archive: str, alive: Alive = lambda: None) -> Index:
    """List the members; of `tar cf x.tar x` without the folder x, which holds everything."""
    ending = next((e for e in FORMATS if archive.lower().endswith(e)), ".arrow")
    members: Callable[[str], Iterator[Member | Link]] = pkgutil.resolve_name(FORMATS[ending])
    places: dict[str, tuple[int, int, int, int]] = {}  # of several of a name, the last counts
    blocks: dict[Block, int] = {}
    links: dict[str, str] = {}
    for member in members(archive):
        alive()
        name = _plain(member.name)
        if leads_out(name) or any(part.startswith(".") for part in name.split("/")):
            continue
        if isinstance(member, Link):
            links[name] = _plain(member.target)
            continue
        row = blocks.setdefault(member.block, len(blocks))
        places[name] = (member.start, member.size, row, member.crc)
    nothing = (0, -1, blocks.setdefault(Block(), len(blocks)) if links else 0, -1)
    for name, target in links.items():
        for _ in range(8):  # links of links
            target = links.get(target, target)
        places[name] = places.get(target, nothing)
    folders = {name.rpartition("/")[0] + "/" for name in places} or {"/"}
    common = os.path.commonpath([min(folders).lstrip("/"), max(folders).lstrip("/")])
    start = f"{common}/" if common else ""
    keys = Keys(name.removeprefix(start) for name in places)
    ordered = [places[start + key] for key in keys]
    files: dict[str, int] = {}
    rows = [
        (files.setdefault(block.file, len(files)), *block[1:4], _PACKINGS.index(block.packing))
        for block in blocks
    ]
    return Index(
        keys,
        np.array(ordered, np.int64).reshape(-1, 4),
        np.array(rows, np.int64).reshape(-1, 5),
        np.array([os.fsencode(file) for file in files], "S"),
    )


def _plain(name: str) -> str:
    """Return a member's name within its archive, as tar and unzip take it: never out of it."""
    return "/".join(part for part in name.split("/") if part not in ("", ".", ".."))
