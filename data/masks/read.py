"""Read masks at random from a folder of shards, in any process, by row or by key."""

import os
import threading
from pathlib import Path
from typing import Self

import h5py
import numpy as np
import zstandard

from data.errors import UserError
from data.masks.format import Status, file_in_memory, open_shard, read_header
from data.masks.index import load_index, scan

_CHECKSUM = 4  # bytes of Fletcher-32 at a chunk's end
_ZSTD_FLETCHER32 = (32015, h5py.h5z.FILTER_FLETCHER32)  # filter numbers, in the order of writing


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
        self._start()

    def _start(self) -> None:
        """Forget files and decoders."""
        self._open_shards: dict[int, int] = {}  # file descriptors
        self._shard_decoder: dict[int, _Decoder] = {}  # of each shard that was checked
        self._decoders: dict[tuple, _Decoder] = {}  # of each canvas and compression
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
        if isinstance(row, str):
            return self.find(row)
        row = int(row)
        if not -len(self) <= row < len(self):
            raise IndexError(f"row {row} of {len(self)} masks")
        return row % len(self)

    def status(self, row: int | str) -> Status:
        """Return what became of an image; a mask is there when it is OK or FLAT."""
        return Status(int(self._index.status[self._row(row)]))

    def statuses(self) -> np.ndarray:
        """Return the status of every row: uint8 (N,), not to be written to."""
        return self._index.status

    def mask_size(self, row: int | str) -> tuple[int, int]:
        """Return a mask's height and width; (0, 0) where there is no mask."""
        height, width = self._index.mask_size[self._row(row)].tolist()
        return height, width

    def image_size(self, row: int | str) -> tuple[int, int]:
        """Return the upright image's height and width; (0, 0) where they are not known."""
        height, width = self._index.image_size[self._row(row)].tolist()
        return height, width

    def error(self, row: int | str) -> str:
        """Return why an image has no mask; empty where it has one."""
        row = self._row(row)
        number = self._number(row)
        with self._own_lock(), open_shard(self.shards[number]) as file:
            text = file["error"][row - int(self._index.first_rows[number])]
        return text.decode("utf-8", "replace")

    def read(self, row: int | str) -> np.ndarray:
        """Read the mask of a row or key: uint8 (h, w), 0 background to 255 foreground, soft.

        Scale it bilinearly to the image's size (half-pixel centres) where you use it. It is (0, 0)
        where there is no mask; see `status`.

        Raises UserError: the file is damaged. The mask's checksum is left to `mask-shards verify`.
        """
        row = self._row(row)
        index = self._index
        mask = np.empty(index.mask_size[row].tolist(), np.uint8)
        if not mask.size:
            return mask
        number, size = self._number(row), int(index.chunk_bytes[row])
        with self._own_lock():
            descriptor = self._shard(number)
            try:
                data = os.pread(descriptor, size, int(index.chunk_offset[row]))
                if len(data) != size:
                    raise ValueError("the file is too short")
                self._shard_decoder[number].decode(data, int(index.chunk_filters[row]), mask)
            except (OSError, ValueError, RuntimeError, zstandard.ZstdError) as error:
                raise UserError(
                    f"the mask of {self.keys[row]!r} in {str(self.shards[number])!r} cannot be "
                    f"read ({' '.join(str(error).split())}); see `mask-shards verify` for the rest."
                ) from None
        return mask

    def _number(self, row: int) -> int:
        """Return the number of a row's shard."""
        return int(np.searchsorted(self._index.first_rows, row, "right")) - 1

    def _own_lock(self) -> threading.Lock:
        """Return this process's lock; after a fork, start anew with files of its own.

        A thread of the parent may have held the parent's lock, or have been in the middle of
        opening a file, at the moment of the fork.
        """
        if self._pid != os.getpid():
            for descriptor in self._open_shards.values():
                os.close(descriptor)  # this process's copy
            self._start()
        return self._lock

    def _shard(self, number: int) -> int:
        """Return an open shard; to open one more than allowed closes the first that was opened."""
        descriptor = self._open_shards.get(number)
        if descriptor is not None:
            return descriptor
        if number not in self._shard_decoder:
            self._check(number)
        while len(self._open_shards) >= self.max_open:
            os.close(self._open_shards.pop(next(iter(self._open_shards))))
        flags = os.O_RDONLY | getattr(os, "O_CLOEXEC", 0)
        descriptor = self._open_shards[number] = os.open(self.shards[number], flags)
        return descriptor

    def _check(self, number: int) -> None:
        """Check that a shard is the one in the index, and give it a decoder."""
        path = self.shards[number]
        with open_shard(path) as file:
            if read_header(file).content_digest != self._index.content_digests[number]:
                raise UserError(
                    f"{str(path)!r} is not the shard that index.h5 describes; "
                    f"make it again by `mask-shards index {self.folder}`."
                )
            masks = file["masks"]
            properties = masks.id.get_create_plist()
            filters = [properties.get_filter(i) for i in range(properties.get_nfilters())]
            kind = (masks.shape[1:], *filters)
            if kind not in self._decoders:
                self._decoders[kind] = _Decoder(masks, [number for number, *_ in filters])
            self._shard_decoder[number] = self._decoders[kind]

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


class _Decoder:
    """Turns a stored chunk back into a mask, without the shard's HDF5 file.

    An open HDF5 file costs a process about a megabyte, and opening one a millisecond or more. What
    DiLo writes by default, zstd and then Fletcher-32, is decompressed here, with the checksum left
    to `verify`. Anything else goes through HDF5, in a small file in memory that is made like the
    shard: gzip, and a chunk whose compression was skipped.
    """

    def __init__(self, masks: h5py.Dataset, filters: list[int]) -> None:
        self._file = file_in_memory(rdcc_nbytes=0)  # so that a read sees the chunk put there last
        self._masks = h5py.h5d.create(
            self._file.id,
            b"masks",
            masks.id.get_type(),
            h5py.h5s.create_simple((1, *masks.shape[1:])),
            masks.id.get_create_plist(),
        )
        self._space = self._masks.get_space()
        self._canvas = masks.shape[1:]
        is_default = tuple(filters) == _ZSTD_FLETCHER32
        self._zstd = zstandard.ZstdDecompressor() if is_default else None

    def decode(self, data: bytes, filter_mask: int, mask: np.ndarray) -> None:
        """Decode a chunk into `mask`, uint8 (h, w), from the canvas's top left corner.

        `filter_mask` tells which filters were skipped. An error of HDF5 or zstd, or ValueError,
        when the bytes cannot be decompressed.
        """
        if len(data) <= _CHECKSUM:  # HDF5's checksum filter would read beyond them, and crash
            raise ValueError(f"{len(data)} bytes cannot be a mask")
        if filter_mask or self._zstd is None:
            self._masks.write_direct_chunk((0, 0, 0), data, filter_mask)
            self._space.select_hyperslab((0, 0, 0), (1, *mask.shape))
            self._masks.read(h5py.h5s.create_simple((1, *mask.shape)), self._space, mask)
            return
        packed = memoryview(data)[:-_CHECKSUM]
        size = zstandard.frame_content_size(packed)
        if size != self._canvas[0] * self._canvas[1]:  # before anything larger is allocated
            raise ValueError(f"its {size} pixels are not a canvas of {self._canvas[0]}")
        canvas = np.frombuffer(self._zstd.decompress(packed), np.uint8).reshape(self._canvas)
        mask[...] = canvas[: mask.shape[0], : mask.shape[1]]
