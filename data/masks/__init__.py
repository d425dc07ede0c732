"""The mask store: HDF5 shards, written whole, read at random."""

from typing import Any


def __getattr__(name: str) -> Any:
    if name in ("EachView", "MaskedImages"):  # they load torch, which commands do not need
        from data.masks import dataset

        return getattr(dataset, name)
    raise AttributeError(f"module 'data.masks' has no attribute {name!r}")
