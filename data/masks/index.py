"""What a set of shards holds: read from the shards themselves, or mapped from index.h5.

index.h5 presents all shards of a folder as one virtual dataset, and has a table that leads from a
key to its row, and from a row to the bytes of its mask. Readers memory-map the table, so that all
processes of a machine share one copy of it.
"""

import json
import os
from dataclasses import dataclass, fields
from itertools import pairwise
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from data.errors import UserError
from data.files import write_whole
from data.keys import Keys
from data.masks.format import (
    INDEX_NAME,
    STATUS_TYPE,
    TEXT_TYPE,
    VERSION,
    ShardHeader,
    damaged,
    file_in_memory,
    open_shard,
    read_header,
    shard_name,
    shard_paths,
)

INDEX_FORMAT = "dilo-mask-index"
_COLUMNS = ("status", "mask_size", "image_size", "chunk_offset", "chunk_bytes", "chunk_filters")
_CHUNK = [("chunk_offset", "<u8"), ("chunk_bytes", "<u4"), ("chunk_filters", "<u4")]


@dataclass(frozen=True)
class Index:
    """What a reader must know of a set of shards, N rows in all.

    shard_count : of the whole set; more than there are names where some are not there yet.
    names, content_digests : of the shard files, in order.
    first_rows : int64 (shards + 1,): shard i holds rows first_rows[i]..first_rows[i + 1] - 1.
    mask_size, image_size : uint32 (N, 2), height and width.
    chunk_offset, chunk_bytes : (N,), where in its shard's file a mask's bytes begin, and how many
        they are, 0 where there is no mask.
    chunk_filters : uint32 (N,): bit i set where filter i was skipped.
    """

    method: str
    parameters: dict[str, Any]
    software: dict[str, str]
    listing_digest: str
    shard_count: int
    names: list[str]
    content_digests: list[str]
    first_rows: np.ndarray
    keys: Keys
    status: np.ndarray
    mask_size: np.ndarray
    image_size: np.ndarray
    chunk_offset: np.ndarray
    chunk_bytes: np.ndarray
    chunk_filters: np.ndarray

    def equals(self, other: "Index") -> bool:
        """Tell whether two indices say the same."""
        pairs = ((getattr(self, item.name), getattr(other, item.name)) for item in fields(self))
        return all(np.array_equal(a, b) if isinstance(a, np.ndarray) else a == b for a, b in pairs)


# From the shards --------------------------------------------------------------------------------


def set_problems(headers: list[ShardHeader]) -> list[str]:
    """Return a sentence for each reason why shards are not of one set, or under a wrong name."""
    problems = []
    for header in headers:
        for what in ("count", "method", "parameters", "listing_digest"):
            if getattr(header, what) != getattr(headers[0], what):
                problems.append(
                    f"{str(header.path)!r} and {headers[0].path.name!r} are not of one set (they "
                    f"differ in {what.replace('_', ' ')}); keep each set of shards in a folder of "
                    "its own."
                )
        if header.path.name != shard_name(header.number):
            problems.append(
                f"{str(header.path)!r} is shard {header.number} of its set; "
                f"give it back its name {shard_name(header.number)!r}."
            )
    return problems


def missing_shards(folder: str | os.PathLike, headers: list[ShardHeader]) -> str | None:
    """Return a sentence that names missing shards; None where none is missing."""
    missing = sorted(set(range(headers[0].count)) - {header.number for header in headers})
    if not missing:
        return None
    shown = ", ".join(map(str, missing[:5])) + (", ..." if len(missing) > 5 else "")
    count = headers[0].count
    return (
        f"{os.fspath(folder)!r} has {count - len(missing)} of {count} shards, "
        f"missing: {shown}; run the command that wrote them again, it makes only what is missing."
    )


def scan(folder: str | os.PathLike, partial: bool = False) -> Index:
    """Read every shard's small datasets; `partial` allows shards that are not there (yet).

    UserError: there are no shards, they are not of one set, one is missing or damaged.
    """
    headers = [read_header(path) for path in shard_paths(folder)]
    if not headers:
        raise UserError(
            f"there are no mask shards in {os.fspath(folder)!r}; make them by saliency-compute."
        )
    for problem in set_problems(headers):
        raise UserError(problem)
    if not partial and (problem := missing_shards(folder, headers)):
        raise UserError(problem)
    parts = [_read_columns(header) for header in headers]
    keys = Keys.concatenate([part.pop("keys") for part in parts])
    if not keys.is_sorted():
        raise UserError(
            f"the keys in {os.fspath(folder)!r} are not sorted and unique over all its shards; "
            "delete the shards and make them again."
        )
    first = headers[0]
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
        **{name: np.concatenate([part[name] for part in parts]) for name in _COLUMNS},
    )


def read_keys(shard: h5py.File) -> Keys:
    """Read a shard's keys, in their order there."""
    return Keys.from_array(shard["keys"][:].astype("S"))


def _read_columns(header: ShardHeader) -> dict[str, Any]:
    """Read a shard's keys, and the other columns of the table."""
    with open_shard(header.path) as file:
        try:
            chunks = _chunks(file["masks"])
            columns = {
                "keys": read_keys(file),
                "status": file["status"][:].astype(np.uint8),
                "mask_size": file["mask_size"][:].astype("<u4"),
                "image_size": file["image_size"][:].astype("<u4"),
                **{name: chunks[name] for name in chunks.dtype.names},
            }
        except (OSError, KeyError, RuntimeError) as error:
            raise damaged(header.path, error) from None
    if {len(column) for column in columns.values()} != {header.images}:
        raise damaged(header.path, f"its datasets do not all have {header.images} rows")
    return columns


def _chunks(masks: h5py.Dataset) -> np.ndarray:
    """Return where each row's chunk is, its bytes and skipped filters."""
    chunks = np.zeros(masks.shape[0], _CHUNK)

    def note(chunk: h5py.h5d.StoreInfo) -> None:
        chunks[chunk.chunk_offset[0]] = (chunk.byte_offset, chunk.size, chunk.filter_mask)

    masks.id.chunk_iter(note)
    return chunks


# index.h5 ---------------------------------------------------------------------------------------


def build_index(folder: str | os.PathLike) -> Path:
    """Write `index.h5` for a whole set of shards, whole or not at all; return its path.

    The shards are named relative to it, so the folder can be moved. UserError as for `scan`,
    OSError as for `write_whole`.
    """
    folder = Path(folder)
    index = scan(folder)
    aligned = {"alignment_threshold": 512, "alignment_interval": 512}  # arrays can be mapped
    with file_in_memory(**aligned) as file:
        file.attrs["format"] = INDEX_FORMAT
        file.attrs["format_version"] = np.uint32(VERSION)
        file.attrs["complete"] = np.uint8(1)
        file.attrs["method"] = index.method
        file.attrs["parameters"] = json.dumps(index.parameters, sort_keys=True)
        file.attrs["software"] = json.dumps(index.software, sort_keys=True)
        file.attrs["listing_digest"] = index.listing_digest
        file.attrs["shard_count"] = np.uint32(len(index.names))
        file.attrs["image_count"] = np.uint64(len(index.keys))
        shards, table = file.create_group("shards"), file.create_group("table")
        shards.create_dataset("name", data=index.names, dtype=TEXT_TYPE)
        shards.create_dataset("content_digest", data=index.content_digests, dtype=TEXT_TYPE)
        shards.create_dataset("bytes", data=np.array(_sizes(folder, index.names), "<i8"))
        shards.create_dataset("first_row", data=index.first_rows)
        table.create_dataset("keys", data=index.keys.array)  # contiguous: a run of bytes
        for name in _COLUMNS:
            table.create_dataset(name, data=getattr(index, name))
        _create_virtual(file, index, folder)
        file.flush()
        image = file.id.get_file_image()
    write_whole(folder / INDEX_NAME, image)
    return folder / INDEX_NAME


def _create_virtual(file: h5py.File, index: Index, folder: Path) -> None:
    """Join each of the shards' datasets to one; masks lie on the largest canvas."""
    rows, canvases = len(index.keys), []
    for name in index.names:
        with open_shard(folder / name) as shard:
            canvases.append(int(shard["masks"].shape[1]))
    largest = max(canvases)
    for column, tail, dtype in (
        ("masks", (largest, largest), "u1"),
        ("keys", (), TEXT_TYPE),
        ("error", (), TEXT_TYPE),
        ("status", (), STATUS_TYPE),
        ("mask_size", (2,), "<u4"),
        ("image_size", (2,), "<u4"),
    ):
        layout = h5py.VirtualLayout((rows, *tail), dtype)
        for name, canvas, bounds in zip(
            index.names, canvases, pairwise(index.first_rows.tolist()), strict=True
        ):
            own = (canvas, canvas) if column == "masks" else tail
            source = h5py.VirtualSource(name, column, (bounds[1] - bounds[0], *own), layout.dtype)
            layout[(slice(*bounds), *map(slice, own))] = source
        file.create_virtual_dataset(column, layout, fillvalue=0 if column == "masks" else None)


def load_index(folder: str | os.PathLike) -> Index | None:
    """Map `index.h5`; None when it is absent, incomplete, or not of the shards that are there."""
    folder = Path(folder)
    path = folder / INDEX_NAME
    try:
        with h5py.File(path, "r", locking=False) as file:
            attributes, shards, table = file.attrs, file["shards"], file["table"]
            names = [name.decode() for name in shards["name"][:]]
            if (
                (attributes["format"], attributes["format_version"]) != (INDEX_FORMAT, VERSION)
                or not attributes["complete"]
                or shards["bytes"][:].tolist() != _sizes(folder, names)
                or len(names) != len(shard_paths(folder))
            ):
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
                keys=_keys(raw, table),
                **{name: _mapped(raw, table[name]) for name in _COLUMNS},
            )
    except (OSError, KeyError, ValueError, RuntimeError):
        return None


def _sizes(folder: Path, names: list[str]) -> list[int]:
    return [os.stat(folder / name).st_size for name in names]


def _keys(raw: np.memmap, table: h5py.Group) -> Keys:
    """Return the mapped keys; of an older index, which has no such array, made ones."""
    if "keys" in table:
        return Keys.from_array(_mapped(raw, table["keys"]))
    blob, marks = table["key_bytes"][:].tobytes(), table["key_offsets"][:].tolist()
    return Keys.from_array(np.array([blob[a:b] for a, b in pairwise(marks)], "S"))


def _mapped(raw: np.memmap, dataset: h5py.Dataset) -> np.ndarray:
    """Return a contiguous dataset as part of the mapped file."""
    offset = dataset.id.get_offset()
    if offset is None or dataset.chunks is not None:
        raise ValueError(f"{dataset.name} is not contiguous")
    part = np.asarray(raw[offset : offset + dataset.nbytes])
    return part.view(dataset.dtype).reshape(dataset.shape)
