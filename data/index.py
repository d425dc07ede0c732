"""index.h5: all shards of a folder as one virtual dataset, with a table that finds masks in O(1).

Readers memory-map the table, so that all processes of a machine share one copy of it. It leads from
a key to its row, and from a row to the bytes of its mask.
"""

import json
import os
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from data.errors import UserError
from data.interrupts import uninterrupted
from data.key_table import build_slots
from data.keys import Keys
from data.pending_file import PendingFile
from data.shard_format import (
    INDEX_NAME,
    LIBVER,
    STATUS_TYPE,
    TEXT_TYPE,
    VERSION,
    ShardHeader,
    open_shard,
    read_header,
    shard_name,
    shard_paths,
)

INDEX_FORMAT = "dilo-mask-index"


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
    slots: np.ndarray  # uint32, the hash table (data.key_table)
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
                parts.append(Keys.from_raw(file["keys"][:].tolist()))
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
        slots=build_slots(keys).astype("<u4", copy=False),
        status=np.concatenate(status),
        mask_size=np.concatenate(mask_size),
        image_size=np.concatenate(image_size),
        chunk_offset=np.concatenate([place["offset"] for place in places]),
        chunk_bytes=np.concatenate([place["bytes"] for place in places]),
        chunk_filters=np.concatenate([place["filters"] for place in places]),
    )


def _chunk_places(masks: h5py.Dataset) -> np.ndarray:
    """Return each row's chunk: its offset, its bytes (0: there is none), skipped filters."""
    places = np.zeros(masks.shape[0], [("offset", "<u8"), ("bytes", "<u4"), ("filters", "<u4")])

    def note(chunk: h5py.h5d.StoreInfo) -> None:
        row = chunk.chunk_offset[0]
        places[row] = (chunk.byte_offset, chunk.size, chunk.filter_mask)

    masks.id.chunk_iter(note)
    return places


@uninterrupted()
def build_index(folder: str | os.PathLike) -> Path:
    """Write `index.h5` for a whole set of shards, atomically; return its path.

    The shards are named relative to it, so the folder can be moved. UserError as for
    `read_headers`.
    """
    folder = Path(folder)
    index = scan(folder)
    pending = PendingFile(folder / INDEX_NAME)
    try:
        aligned = {"alignment_threshold": 512, "alignment_interval": 512}  # arrays can be mapped
        with h5py.File(pending, "w", libver=LIBVER, **aligned) as file:
            _write_attributes(file, index, folder)
            _write_table(file, index)
            _write_virtual(file, index, folder)
            file.attrs["complete"] = np.uint8(1)
        pending.publish()
    finally:
        pending.discard()
    return pending.path


def _write_attributes(file: h5py.File, index: Index, folder: Path) -> None:
    file.attrs["format"] = INDEX_FORMAT
    file.attrs["format_version"] = np.uint32(VERSION)
    file.attrs["complete"] = np.uint8(0)
    file.attrs["method"] = index.method
    file.attrs["parameters"] = json.dumps(index.parameters, sort_keys=True)
    file.attrs["software"] = json.dumps(index.software, sort_keys=True)
    file.attrs["listing_digest"] = index.listing_digest
    file.attrs["shard_count"] = np.uint32(len(index.names))
    file.attrs["image_count"] = np.uint64(len(index.keys))
    shards = file.create_group("shards")
    shards.create_dataset("name", data=index.names, dtype=TEXT_TYPE)
    shards.create_dataset("content_digest", data=index.content_digests, dtype=TEXT_TYPE)
    sizes = [(folder / name).stat().st_size for name in index.names]
    shards.create_dataset("bytes", data=np.array(sizes, "<i8"))
    shards.create_dataset("first_row", data=index.first_rows)


def _write_table(file: h5py.File, index: Index) -> None:
    table = file.create_group("table")
    for name, array in (
        ("key_bytes", index.keys.blob),
        ("key_offsets", index.keys.offsets.astype("<i8", copy=False)),
        ("slots", index.slots),
        ("status", index.status),
        ("mask_size", index.mask_size),
        ("image_size", index.image_size),
        ("chunk_offset", index.chunk_offset),
        ("chunk_bytes", index.chunk_bytes),
        ("chunk_filters", index.chunk_filters),
    ):
        table.create_dataset(name, data=array)  # contiguous: one run of bytes in the file


def _write_virtual(file: h5py.File, index: Index, folder: Path) -> None:
    rows = len(index.keys)
    canvases = []
    for name in index.names:
        with open_shard(folder / name) as shard:
            canvases.append(int(shard["masks"].shape[1]))
    largest = max(canvases)
    masks = h5py.VirtualLayout((rows, largest, largest), "u1")
    columns = {
        "keys": h5py.VirtualLayout((rows,), TEXT_TYPE),
        "error": h5py.VirtualLayout((rows,), TEXT_TYPE),
        "status": h5py.VirtualLayout((rows,), STATUS_TYPE),
        "mask_size": h5py.VirtualLayout((rows, 2), "<u4"),
        "image_size": h5py.VirtualLayout((rows, 2), "<u4"),
    }
    for number, (name, canvas) in enumerate(zip(index.names, canvases, strict=True)):
        start, stop = (int(row) for row in index.first_rows[number : number + 2])
        count = stop - start
        source = h5py.VirtualSource(name, "masks", (count, canvas, canvas), "u1")
        masks[start:stop, :canvas, :canvas] = source
        for column, layout in columns.items():
            shape = (count, *layout.shape[1:])
            layout[start:stop] = h5py.VirtualSource(name, column, shape, layout.dtype)
    file.create_virtual_dataset("masks", masks, fillvalue=0)
    for column, layout in columns.items():
        file.create_virtual_dataset(column, layout)


def load_index(folder: str | os.PathLike) -> Index | None:
    """Map `index.h5`; None when it is absent, incomplete, or not of the shards that are there."""
    folder = Path(folder)
    path = folder / INDEX_NAME
    try:
        with h5py.File(path, "r", locking=False) as file:
            attributes = file.attrs
            if (
                attributes.get("format") != INDEX_FORMAT
                or attributes.get("format_version") != VERSION
                or not attributes.get("complete", 0)
            ):
                return None
            shards, table = file["shards"], file["table"]
            names = [name.decode() for name in shards["name"][:]]
            sizes = shards["bytes"][:].tolist()
            if _sizes(folder, names) != sizes or len(names) != len(shard_paths(folder)):
                return None
            raw = np.memmap(path, np.uint8, "r")
            return Index(
                method=str(attributes["method"]),
                parameters=json.loads(attributes["parameters"]),
                software=json.loads(attributes["software"]),
                listing_digest=str(attributes["listing_digest"]),
                shard_count=len(names),
                names=names,
                content_digests=[digest.decode() for digest in shards["content_digest"][:]],
                first_rows=shards["first_row"][:],
                keys=Keys.from_arrays(
                    _mapped(raw, table["key_bytes"]), _mapped(raw, table["key_offsets"])
                ),
                slots=_mapped(raw, table["slots"]),
                status=_mapped(raw, table["status"]),
                mask_size=_mapped(raw, table["mask_size"]),
                image_size=_mapped(raw, table["image_size"]),
                chunk_offset=_mapped(raw, table["chunk_offset"]),
                chunk_bytes=_mapped(raw, table["chunk_bytes"]),
                chunk_filters=_mapped(raw, table["chunk_filters"]),
            )
    except (OSError, KeyError, ValueError, RuntimeError):
        return None


def _sizes(folder: Path, names: list[str]) -> list[int]:
    return [os.stat(folder / name).st_size for name in names]


def _mapped(raw: np.memmap, dataset: h5py.Dataset) -> np.ndarray:
    """Return a contiguous dataset as part of the mapped file."""
    offset = dataset.id.get_offset()
    if offset is None or dataset.chunks is not None:
        raise ValueError(f"{dataset.name} is not contiguous")
    part = np.asarray(raw[offset : offset + dataset.nbytes])
    return part.view(dataset.dtype).reshape(dataset.shape)
