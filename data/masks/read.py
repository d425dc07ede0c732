"""Read masks at random from a folder of shards, in any process, by row or by key."""

import os
import threading
from collections import OrderedDict
from pathlib import Path
from typing import Any, Self

import numpy as np

from data.errors import UserError
from data.keys import Keys
from data.masks.chunk_decoder import ChunkDecoder, filters_of
from data.masks.format import Status, open_shard, read_header
from data.masks.index import load_index
from data.masks.scan import Index, scan


class MaskShards:
    """The masks of a folder of shards, as one sequence of N rows in the order of their keys.

    Cheap to make, to pickle, and to carry through a fork: every process opens shards on its own,
    when it first reads from them. It opens each as HDF5 once, to check its header, and then reads
    masks at their places in the file, which the index knows; so the time and the memory of a read
    do not grow with the number of shards. `index.h5`, where it is there and fits the shards, is
    memory-mapped, and so shared by all processes; without it the shards' keys are read into memory
    when the reader is made or unpickled. Files are opened read-only and without locks, as network
    and read-only file systems ask for. Threads may share a reader.

    Parameters
    ----------
    folder
        The folder that holds `shard-00000.h5` and so on.
    max_open
        How many shard files a process holds open at once (a file descriptor each); the one used
        longest ago is closed first.

    partial
        Read what is there although shards of the set are still missing, to look at a run half-way.

    Raises
    ------
    UserError
        No shards there, one is missing, incomplete, foreign, or of another format version.

    Examples
    --------
    >>> masks = MaskShards("OUT")                          # doctest: +SKIP
    >>> masks.read("n01440764/n01440764_10026.JPEG").shape  # doctest: +SKIP
    (300, 400)
    """

    def __init__(
        self, folder: str | os.PathLike, max_open: int = 400, partial: bool = False
    ) -> None:
        self.folder = Path(folder)
        self.max_open = max(1, max_open)
        self.partial = partial
        self._index: Index = load_index(self.folder) or scan(self.folder, partial)
        self._start()

    def _start(self) -> None:
        """Forget files and decoders."""
        self._open_shards: OrderedDict[int, int] = OrderedDict()  # file descriptors
        self._shard_decoder: dict[int, ChunkDecoder] = {}  # of each shard that was checked
        self._decoders: dict[tuple, ChunkDecoder] = {}  # of each canvas and compression
        self._lock = threading.Lock()
        self._pid = os.getpid()

    # What the set is ---------------------------------------------------------------------------

    @property
    def method(self) -> str:
        """The method that made the masks, such as "rbd"."""
        return self._index.method

    @property
    def parameters(self) -> dict[str, Any]:
        """The method's parameters, and the working resolution."""
        return self._index.parameters

    @property
    def software(self) -> dict[str, str]:
        """Versions of the software that made the masks."""
        return self._index.software

    @property
    def listing_digest(self) -> str:
        """`Keys.digest` of the image folder's listing when the masks were made."""
        return self._index.listing_digest

    @property
    def shard_count(self) -> int:
        """How many shards the whole set has; more than `shards` where some are not there yet."""
        return self._index.shard_count

    @property
    def shards(self) -> list[Path]:
        """The shard files, in order."""
        return [self.folder / name for name in self._index.names]

    @property
    def keys(self) -> Keys:
        """All keys, in the order of the rows."""
        return self._index.keys

    def __len__(self) -> int:
        return len(self._index.keys)

    def __repr__(self) -> str:
        return f"MaskShards({str(self.folder)!r}: {len(self)} masks by {self.method})"

    # Rows ---------------------------------------------------------------------------------------

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
        number, inner = self._place(self._row(row))
        with self._own_lock(), open_shard(self.shards[number]) as file:
            return file["error"][inner].decode("utf-8", "replace")

    def read(self, row: int | str) -> np.ndarray:
        """Read the mask of a row or key.

        Returns
        -------
        uint8 array, (h, w)
            0 background to 255 foreground, soft. Scale it bilinearly to the image's size
            (half-pixel centres) where you use it. (0, 0) where there is no mask; see `status`.

        Raises
        ------
        UserError
            The mask's checksum is wrong: the file is damaged.
        """
        row = self._row(row)
        height, width = self._index.mask_size[row].tolist()
        mask = np.empty((height, width), np.uint8)
        if not mask.size:
            return mask
        number, _ = self._place(row)
        size = int(self._index.chunk_bytes[row])
        with self._own_lock():
            descriptor = self._shard(number)
            try:
                data = os.pread(descriptor, size, int(self._index.chunk_offset[row]))
                if len(data) != size:
                    raise ValueError("the file is too short")
                filters = int(self._index.chunk_filters[row])
                self._shard_decoder[number].decode(data, filters, mask)
            except (OSError, ValueError, RuntimeError) as error:
                raise UserError(
                    f"the mask of {self.keys[row]!r} in {str(self.shards[number])!r} cannot be "
                    f"read ({' '.join(str(error).split())}); see `mask-shards verify` for the rest."
                ) from None
        return mask

    # Files --------------------------------------------------------------------------------------

    def _place(self, row: int) -> tuple[int, int]:
        """Return the number of a row's shard, and its row there."""
        first_rows = self._index.first_rows
        number = int(np.searchsorted(first_rows, row, "right")) - 1
        return number, row - int(first_rows[number])

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
        """Return an open shard; to open one more than allowed closes the one used longest ago."""
        descriptor = self._open_shards.get(number)
        if descriptor is not None:
            self._open_shards.move_to_end(number)
            return descriptor
        path = self.folder / self._index.names[number]
        if number not in self._shard_decoder:
            self._check(number, path)
        while len(self._open_shards) >= self.max_open:
            os.close(self._open_shards.popitem(last=False)[1])
        try:
            descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
        except OSError as error:
            raise UserError(
                f"{str(path)!r} cannot be opened ({str(error.strerror).lower()}); make it readable."
            ) from None
        self._open_shards[number] = descriptor
        return descriptor

    def _check(self, number: int, path: Path) -> None:
        """Check that a shard is the one in the index, and find it a decoder."""
        with open_shard(path) as file:
            if read_header(file).content_digest != self._index.content_digests[number]:
                raise UserError(
                    f"{str(path)!r} is not the shard that index.h5 describes; "
                    f"make it again by `mask-shards index {self.folder}`."
                )
            masks = file["masks"]
            kind = filters_of(masks)
            if kind not in self._decoders:
                self._decoders[kind] = ChunkDecoder(masks)
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
