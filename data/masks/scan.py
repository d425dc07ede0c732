"""What a set of mask shards holds, in memory: read from every shard's small datasets."""

import os
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from data.errors import UserError
from data.keys import Keys
from data.masks.format import ShardHeader, open_shard, read_header, shard_name, shard_paths


@dataclass(frozen=True)
class Index:
    """What a reader must know of a set of shards, N rows in all.

    The arrays are memory-mapped where they come from `index.h5`.
    """

    method: str
    parameters: dict[str, Any]
    software: dict[str, str]
    listing_digest: str
    shard_count: int  # of the whole set; more than there are names where some are not there yet
    names: list[str]  # of the shard files, in order
    content_digests: list[str]  # of the shards, in order
    first_rows: (
        np.ndarray
    )  # int64 (shards + 1,): shard i holds rows first_rows[i]..first_rows[i+1]-1
    keys: Keys
    status: np.ndarray  # uint8 (N,)
    mask_size: np.ndarray  # uint32 (N, 2) height, width
    image_size: np.ndarray  # uint32 (N, 2) height, width
    chunk_offset: np.ndarray  # uint64 (N,): where in its shard's file a mask's bytes begin
    chunk_bytes: np.ndarray  # uint32 (N,): how many they are, 0 where there is no mask
    chunk_filters: np.ndarray  # uint32 (N,): bit i set where filter i was skipped

    def equals(self, other: "Index") -> bool:
        """Tell whether two indices say the same."""
        for item in fields(self):
            mine, theirs = getattr(self, item.name), getattr(other, item.name)
            same = np.array_equal(mine, theirs) if isinstance(mine, np.ndarray) else mine == theirs
            if not same:
                return False
        return True


def read_headers(folder: str | os.PathLike, partial: bool = False) -> list[ShardHeader]:
    """Read the headers of a folder's shards; UserError unless they are one whole set.

    `partial` allows shards that are not there (yet).
    """
    folder = Path(folder)
    paths = shard_paths(folder)
    if not paths:
        raise UserError(
            f"there are no mask shards in {str(folder)!r}; make them by saliency-compute."
        )
    headers = [read_header(path) for path in paths]
    first = headers[0]
    for header in headers:
        for what in ("count", "method", "parameters", "listing_digest"):
            if getattr(header, what) != getattr(first, what):
                raise UserError(
                    f"{str(header.path)!r} and {str(first.path)!r} are not of one set (they differ "
                    f"in {what.replace('_', ' ')}); keep each set of shards in a folder of its own."
                )
        if header.path.name != shard_name(header.number):
            raise UserError(
                f"{str(header.path)!r} is shard {header.number} of its set; "
                f"give it back its name {shard_name(header.number)!r}."
            )
    there = {header.number for header in headers}
    missing = [number for number in range(first.count) if number not in there]
    if missing and not partial:
        shown = ", ".join(map(str, missing[:5])) + (", ..." if len(missing) > 5 else "")
        raise UserError(
            f"{str(folder)!r} has {len(headers)} of {first.count} shards, missing: {shown}; "
            "run the command that wrote them again, it makes only what is missing."
        )
    return headers


def scan(folder: str | os.PathLike, partial: bool = False) -> Index:
    """Make the index in memory by reading every shard's small datasets.

    UserError as for `read_headers`, and where a shard is damaged.
    """
    headers = read_headers(folder, partial)
    parts, status, mask_size, image_size, places = [], [], [], [], []
    for header in headers:
        with open_shard(header.path) as file:
            try:
                parts.append(read_keys(file))
                status.append(file["status"][:].astype(np.uint8))
                mask_size.append(file["mask_size"][:].astype("<u4"))
                image_size.append(file["image_size"][:].astype("<u4"))
                places.append(_chunk_places(file["masks"]))
            except (OSError, KeyError, RuntimeError) as error:
                raise UserError(
                    f"{str(header.path)!r} is damaged ({' '.join(str(error).split())}); "
                    "delete it and run the command that wrote it again."
                ) from None
        rows = {len(column[-1]) for column in (parts, status, mask_size, image_size, places)}
        if rows != {header.images}:
            raise UserError(
                f"{str(header.path)!r} is damaged: its datasets do not all have {header.images} "
                "rows; delete it and run the command that wrote it again."
            )
    first = headers[0]
    keys = Keys.concatenate(parts)
    if not keys.is_sorted():
        raise UserError(
            f"the keys in {os.fspath(folder)!r} are not sorted and unique over all its shards; "
            "delete the shards and make them again."
        )
    return Index(
        method=first.method,
        parameters=first.parameters,
        software=first.software,
        listing_digest=first.listing_digest,
        shard_count=first.count,
        names=[header.path.name for header in headers],
        content_digests=[header.content_digest for header in headers],
        first_rows=np.cumsum([0, *(header.images for header in headers)], dtype="<i8"),
        keys=keys,
        status=np.concatenate(status),
        mask_size=np.concatenate(mask_size),
        image_size=np.concatenate(image_size),
        chunk_offset=np.concatenate([place["offset"] for place in places]),
        chunk_bytes=np.concatenate([place["bytes"] for place in places]),
        chunk_filters=np.concatenate([place["filters"] for place in places]),
    )


def read_keys(shard: h5py.File) -> Keys:
    """Read a shard's keys, in their order there."""
    return Keys.from_array(shard["keys"][:].astype("S"))


def _chunk_places(masks: h5py.Dataset) -> np.ndarray:
    """Return each row's chunk: its offset, its bytes (0: there is none), skipped filters."""
    places = np.zeros(masks.shape[0], [("offset", "<u8"), ("bytes", "<u4"), ("filters", "<u4")])

    def note(chunk: h5py.h5d.StoreInfo) -> None:
        row = chunk.chunk_offset[0]
        places[row] = (chunk.byte_offset, chunk.size, chunk.filter_mask)

    masks.id.chunk_iter(note)
    return places
