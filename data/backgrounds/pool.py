"""A pool of crops without salient objects as backgrounds: reading it (see `make_pool`)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np

from data.errors import UserError
from data.masks.format import open_shard, own_dataset, reading

POOL_FORMAT = "dilo-background-pool"
POOL_VERSION = 1


class BackgroundPool:
    """A file made by `mask-shards backgrounds`; UserError: no such file, or it is not a pool.

    One HDF5 file; the crops lie in it uncompressed, so that reading one is a single copy. Opened
    lazily by each process, picklable, safe to fork.
    """

    def __init__(self, path: str | os.PathLike) -> None:
        self.path = Path(path)
        if self.path.is_dir():
            raise UserError(f"the background pool {str(self.path)!r} is a directory; give a file.")
        with self._errors_named(), open_shard(path) as file, reading(path):
            kind, version = file.attrs.get("format"), file.attrs.get("format_version", -1)
            if kind != POOL_FORMAT or int(version) != POOL_VERSION:
                what = f"a pool of version {version}" if kind == POOL_FORMAT else "no pool"
                raise UserError(
                    f"{str(self.path)!r} is {what}, and this program reads background pools of "
                    f"version {POOL_VERSION}; make one by `mask-shards backgrounds`."
                )
            self._count, self.size = map(int, own_dataset(file, "crops").shape[:2])
        self._crops: h5py.Dataset | None = None
        self._pid = os.getpid()

    @contextmanager
    def _errors_named(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:  # HDF5's has no file name
            reason = os.strerror(error.errno).lower() if error.errno else str(error)
            raise UserError(
                f"the background pool {str(self.path)!r} cannot be read ({reason}); "
                "make it by `mask-shards backgrounds IMAGES MASKS POOL`."
            ) from None

    def __len__(self) -> int:
        return self._count

    def read(self, number: int) -> np.ndarray:
        """Return crop `number` as uint8 (size, size, 3)."""
        with self._errors_named():
            if self._crops is None or self._pid != os.getpid():  # forked: not the parent's handle
                self._crops = own_dataset(open_shard(self.path), "crops")
                self._pid = os.getpid()
            return self._crops[number]

    def __reduce__(self) -> tuple:
        return BackgroundPool, (self.path,)
