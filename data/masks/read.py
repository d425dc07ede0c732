"""Read masks at random from a folder of shards, in any process, by row or by key."""

import os
import threading
import zlib
from bisect import bisect_right
from pathlib import Path
from typing import Self

import h5py
import numpy as np
import zstandard

from data.errors import UserError, damaged
from data.keys import Keys, texts_digest
from data.masks.format import Status, read_header
from data.masks.index import load_index, read_rows, scan
from data.masks.opening import open_shard, reading

_CHECKSUM = 4  # bytes of Fletcher-32 at a chunk's end
_ZSTD, _DEFLATE, _FLETCHER32 = 32015, h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_FLETCHER32


class MaskShards:
    """The masks of a folder of shards, as one sequence of N rows in the order of their keys.

    Cheap to make, to pickle, and to carry through a fork: every process opens shards on its own,
    when it first reads from them. It opens each as HDF5 once, to check its header, and then reads
    masks where the index says that they are in the file; so the time and the memory of a read do
    not grow with the number of shards. `index.h5`, where it is there and fits the shards, is
    memory-mapped, and so shared by all processes; without it the shards' keys are read into memory
    when the reader is made or unpickled. Files are opened read-only and without locks, as network
    and read-only file systems ask for. Threads may share a reader.

    folder : the folder that holds `shard-00000.h5` and so on.
    max_open : how many shard files a process holds open at once (a file descriptor each).
    partial : read what is there although shards of the set are still missing.

    method, parameters, software, listing_digest : as recorded by what made the masks.
    shard_count : of the whole set; more than `shards` where some are not there yet.
    shards : the shard files, in order.
    keys : all keys, in the order of the rows.
    digest : SHA-256 in hex of what all rows say: masks, sizes, statuses.

    Raises UserError: no shards there; one is missing, incomplete, foreign, of another version.

    >>> masks = MaskShards("OUT")                          # doctest: +SKIP
    >>> masks.read("n01440764/n01440764_10026.JPEG").shape  # doctest: +SKIP
    (300, 400)
    """

    def __init__(
        self, folder: str | os.PathLike, max_open: int = 400, partial: bool = False
    ) -> None:
        self.folder, self.max_open, self.partial = Path(folder), max(1, max_open), partial
        self._index = index = load_index(self.folder) or scan(self.folder, partial)
        self.method, self.parameters, self.software = index.method, index.parameters, index.software
        self.listing_digest, self.shard_count = index.listing_digest, index.shard_count
        self.shards = [self.folder / name for name in index.names]
        self.keys = index.keys
        self.digest = texts_digest(digest.encode() for digest in index.content_digests)
        self._first_rows = index.first_rows.tolist()
        self._start()

    def _start(self) -> None:
        """Forget what belongs to another process."""
        self._open_shards: dict[int, int] = {}  # file descriptors
        self._kinds: dict[int, tuple[int, bool]] = {}  # of checked shards: canvas, is it zstd
        self._unzstd = zstandard.ZstdDecompressor()
        self._lock = threading.Lock()
        self._pid = os.getpid()

    def __len__(self) -> int:
        return len(self.keys)

    def __repr__(self) -> str:
        return f"MaskShards({str(self.folder)!r}: {len(self)} masks by {self.method})"

    def find(self, key: str) -> int:
        """Return the row of a key; KeyError when there is none."""
        return self.keys.find(key)

    def __contains__(self, key: object) -> bool:
        return key in self.keys

    def _row(self, row: int | str) -> int:
        return self.find(row) if isinstance(row, str) else range(len(self))[row]

    def status(self, row: int | str) -> Status:
        """Return what became of an image; a mask is there when it is OK or FLAT."""
        return Status(int(self._index.status[self._row(row)]))

    def statuses(self) -> np.ndarray:
        """Return the status of every row: uint8 (N,), not to be written to."""
        return self._index.status

    @property
    def stored_bytes(self) -> int:
        """Of all masks, compressed."""
        return int(self._index.chunk_bytes.sum())

    def mask_size(self, row: int | str) -> tuple[int, int]:
        """Return a mask's height and width; (0, 0) where there is no mask."""
        height, width = self._index.mask_size[self._row(row)].tolist()
        return height, width

    def image_size(self, row: int | str) -> tuple[int, int]:
        """Return the upright image's height and width; (0, 0) where they are not known."""
        height, width = self._index.image_size[self._row(row)].tolist()
        return height, width

    def rows_of(self, keys: Keys, images: str | os.PathLike) -> np.ndarray:
        """Return the row of each key of the folder `images`, -1 where it has none: int64 (N,).

        UserError: not one has a row, so the masks are of other images.
        """
        rows = self.keys.rows(keys)
        if len(rows) and rows.max() < 0:
            raise UserError(
                f"the masks in {str(self.folder)!r} belong to another folder: to images such as "
                f"{self.keys[0]!r}, and in {os.fspath(images)!r} there are such as {keys[0]!r}; "
                f"give the folder they were computed from{self.keys.composed_otherwise(keys)}."
            )
        return rows

    def check_size(self, row: int | str, size: tuple[int, int]) -> None:
        """Refuse a mask of an image that had another height and width than `size` (UserError)."""
        known = self.image_size(row)
        if known not in ((0, 0), size):
            raise UserError(
                f"the mask of {self.keys[self._row(row)]!r} in {str(self.folder)!r} is of an image "
                f"of {known[0]}x{known[1]} pixels (height x width), not {size[0]}x{size[1]}; "
                "compute the masks of these images."
            )

    def error(self, row: int | str) -> str:
        """Return why an image has no mask; where it has one, what is damaged inside the image."""
        row = self._row(row)
        number = self._number(row)
        return read_rows(self.shards[number])["error"][row - self._first_rows[number]]

    def read(self, row: int | str) -> np.ndarray:
        """Read the mask of a row or key: uint8 (h, w), 0 background to 255 foreground, soft.

        Scale it bilinearly to the image's size (half-pixel centres) where you use it. It is (0, 0)
        where there is no mask; see `status`.

        Raises UserError: the file is damaged. In shards of version 1 what can be decompressed
        passes; `mask-shards verify` compares their checksums too.
        """
        row = self._row(row)
        index = self._index
        height, width = index.mask_size[row].tolist()
        if not height:
            return np.empty((0, 0), np.uint8)
        number, size = self._number(row), int(index.chunk_bytes[row])
        with self._own_lock():
            descriptor = self._shard(number)
            try:
                data = os.pread(descriptor, size, int(index.chunk_offset[row]))
                short = len(data) < size
                if short or int(index.checks[row]) not in (0, zlib.crc32(data)):
                    raise ValueError("the file is too short" if short else "its checksum differs")
                canvas, is_zstd = self._kinds[number]
                unzstd = self._unzstd if is_zstd else None
                whole = _unpack(data, int(index.chunk_filters[row]), canvas, unzstd)
            except (OSError, ValueError, zlib.error, zstandard.ZstdError) as error:
                name = f"the mask of {self.keys[row]!r} in {str(self.shards[number])!r}"
                raise damaged("", error, "see `mask-shards verify`", name=name) from None
        return whole[:height, :width].copy()

    def _number(self, row: int) -> int:
        """Return the number of a row's shard."""
        return bisect_right(self._first_rows, row) - 1

    def _own_lock(self) -> threading.Lock:
        """Return this process's lock; after a fork, start anew with files of its own."""
        if self._pid != os.getpid():  # a thread of the parent may have held its lock meanwhile
            for descriptor in self._open_shards.values():
                os.close(descriptor)  # this process's copy
            self._start()
        return self._lock

    def _shard(self, number: int) -> int:
        """Return an open shard; to open one more than allowed closes the first that was opened."""
        descriptor = self._open_shards.get(number)
        if descriptor is not None:
            return descriptor
        if number not in self._kinds:
            self._check(number)
        while len(self._open_shards) >= self.max_open:
            os.close(self._open_shards.pop(next(iter(self._open_shards))))
        descriptor = self._open_shards[number] = os.open(self.shards[number], os.O_RDONLY)
        return descriptor

    def _check(self, number: int) -> None:
        """Check that a shard is the one in the index, and note how its masks are stored."""
        path = self.shards[number]
        with open_shard(path) as file, reading(path):
            header = read_header(file)
            if header.content_digest != self._index.content_digests[number]:
                again = f"`mask-shards index {self.folder}` makes it anew"
                raise UserError(f"{str(path)!r} is not the shard that index.h5 describes; {again}.")
            properties = file["masks"].id.get_create_plist()
            filters = [properties.get_filter(i)[0] for i in range(properties.get_nfilters())]
            if filters not in ([_ZSTD, _FLETCHER32], [_DEFLATE, _FLETCHER32]):
                raise ValueError(f"its masks lie behind HDF5's filters {filters}")
            self._kinds[number] = (header.canvas, filters[0] == _ZSTD)

    def close(self) -> None:
        """Close this process's files; reading opens them again."""
        with self._own_lock():
            while self._open_shards:
                os.close(self._open_shards.popitem()[1])

    def __del__(self) -> None:
        if getattr(self, "_pid", None) == os.getpid():
            self.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __reduce__(self) -> tuple:
        return MaskShards, (self.folder, self.max_open, self.partial)


def _unpack(
    data: bytes, filter_mask: int, canvas: int, unzstd: zstandard.ZstdDecompressor | None
) -> np.ndarray:
    """Undo a chunk's filters, three times as fast as HDF5: uint8 (canvas, canvas)."""
    packed = memoryview(data)[:-_CHECKSUM]
    if filter_mask & 1:  # it would not shrink
        raw = packed
    elif unzstd is None:
        raw = zlib.decompressobj().decompress(packed, canvas * canvas + 1)
    elif (size := zstandard.frame_content_size(packed)) == canvas * canvas:
        raw = unzstd.decompress(packed)
    else:  # nothing larger is allocated
        raise ValueError(f"its {size} pixels are not a canvas of {canvas}")
    return np.frombuffer(raw, np.uint8).reshape(canvas, canvas)
