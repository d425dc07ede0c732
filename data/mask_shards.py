"""Read masks at random from a folder of shards, in any process, by row or by key."""

import os
import threading
from collections import OrderedDict
from pathlib import Path
from typing import Any, NamedTuple, Self

import h5py
import numpy as np

from data.errors import UserError
from data.index import Index, load_index, scan
from data.key_table import find_row
from data.keys import Keys
from data.shard_format import Status, open_shard, read_header


class _Open(NamedTuple):
    """An open shard."""

    file: h5py.File
    masks: h5py.h5d.DatasetID
    space: h5py.h5s.SpaceID  # the dataset's, reused by every read


class MaskShards:
    """The masks of a folder of shards, as one sequence of N rows in the order of their keys.

    Cheap to make, to pickle, and to carry through a fork: every process opens shards on its own,
    when it first reads from them. `index.h5`, where it is there and fits the shards, is
    memory-mapped, and so shared by all processes; without it the shards' keys are read into memory
    when the reader is made or unpickled. Files are opened read-only and without locks, as network
    and read-only file systems ask for. Threads may share a reader.

    Parameters
    ----------
    folder
        The folder that holds `shard-00000.h5` and so on.
    max_open
        How many shard files a process holds open at once; the one used longest ago is closed first.

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
        self, folder: str | os.PathLike, max_open: int = 64, partial: bool = False
    ) -> None:
        self.folder = Path(folder)
        self.max_open = max(1, max_open)
        self.partial = partial
        self._index: Index = load_index(self.folder) or scan(self.folder, partial)
        self._open_shards: OrderedDict[int, _Open] = OrderedDict()
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
        """Return the row of a key, in O(1); KeyError when there is none."""
        return find_row(self._index.keys, self._index.slots, key)

    def __contains__(self, key: object) -> bool:
        if not isinstance(key, str):
            return False
        try:
            self.find(key)
        except KeyError:
            return False
        return True

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
        with self._own_lock():
            return self._shard(number).file["error"][inner].decode("utf-8", "replace")

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
        number, inner = self._place(row)
        with self._own_lock():
            shard = self._shard(number)
            try:
                shard.space.select_hyperslab((inner, 0, 0), (1, height, width))
                shard.masks.read(h5py.h5s.create_simple((1, height, width)), shard.space, mask)
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
            self._open_shards = OrderedDict()
            self._lock = threading.Lock()
            self._pid = os.getpid()
        return self._lock

    def _shard(self, number: int) -> _Open:
        """Return an open shard; to open one more than allowed closes the one used longest ago."""
        shard = self._open_shards.get(number)
        if shard is not None:
            self._open_shards.move_to_end(number)
            return shard
        while len(self._open_shards) >= self.max_open:
            self._open_shards.popitem(last=False)[1].file.close()
        file = open_shard(self.folder / self._index.names[number])
        if read_header(file).content_digest != self._index.content_digests[number]:
            name = os.fsdecode(file.filename)
            file.close()
            raise UserError(
                f"{name!r} is not the shard that index.h5 describes; "
                f"make it again by `mask-shards index {self.folder}`."
            )
        masks = file["masks"].id
        shard = self._open_shards[number] = _Open(file, masks, masks.get_space())
        return shard

    def close(self) -> None:
        """Close this process's files; reading opens them again."""
        with self._own_lock():
            for shard in self._open_shards.values():
                shard.file.close()
            self._open_shards.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __reduce__(self) -> tuple:
        return MaskShards, (self.folder, self.max_open, self.partial)
