"""What a set of shards holds: read from the shards themselves, or mapped from index.h5.

index.h5 presents all shards of a folder as one virtual dataset, and has a table that leads from a
key to its row, and from a row to the bytes of its mask. Readers memory-map the table, so that all
processes of a machine share one copy of it.
"""

import hashlib
import json
import os
from dataclasses import dataclass, fields
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from data.errors import UserError
from data.keys import Keys, texts_digest
from data.masks.format import (
    INDEX_NAME,
    MAX_CANVAS,
    STATUS_TYPE,
    TEXT_TYPE,
    VERSION,
    ShardHeader,
    Status,
    attributes_digest,
    content_digest,
    file_in_memory,
    read_attributes,
    read_header,
    shard_name,
    shard_paths,
)
from data.masks.opening import Locked, damaged, open_shard, own_dataset, reading, write_sealed

INDEX_FORMAT = "dilo-mask-index"
_ROWS = ("status", "mask_size", "image_size", "checks")  # as in a shard
_COLUMNS = (*_ROWS, "chunk_offset", "chunk_bytes", "chunk_filters")
_CHUNK = [("chunk_offset", "<u8"), ("chunk_bytes", "<u4"), ("chunk_filters", "<u4")]


@dataclass(frozen=True)
class Index:
    """What a reader must know of a set of shards, N rows in all.

    shard_count : of the whole set; more than there are names where some are not there yet.
    names, content_digests : of the shard files, in order.
    first_rows : int64 (shards + 1,): shard i holds rows first_rows[i]..first_rows[i + 1] - 1.
    mask_size, image_size : uint32 (N, 2), height and width.
    checks : uint32 (N,), CRC-32 of a mask's bytes; 0 where there is none, or where it is not known.
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
    checks: np.ndarray
    chunk_offset: np.ndarray
    chunk_bytes: np.ndarray
    chunk_filters: np.ndarray

    def equals(self, other: "Index") -> bool:
        """Tell whether two indices say the same."""
        pairs = ((getattr(self, item.name), getattr(other, item.name)) for item in fields(self))
        return all(np.array_equal(a, b) if isinstance(a, np.ndarray) else a == b for a, b in pairs)


# From the shards --------------------------------------------------------------------------------


def existing_shards(folder: str | os.PathLike) -> list[Path]:
    """Return the shards in a folder; UserError: there are none."""
    if paths := shard_paths(folder):
        return paths
    raise UserError(f"there are no mask shards in {os.fspath(folder)!r}; give a folder of them.")


def set_problems(headers: list[ShardHeader]) -> list[str]:
    """Return a sentence for each reason why shards are not of one set, or under a wrong name."""
    problems = []
    for header in headers:
        for what in ("count", "method", "parameters", "listing_digest", "set_id"):
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
    count, there = headers[0].count, {header.number for header in headers}
    missing = list(islice((number for number in range(count) if number not in there), 6))
    if not missing:
        return None
    shown = ", ".join(map(str, missing[:5])) + (", ..." if len(missing) > 5 else "")
    return (
        f"{os.fspath(folder)!r} has {sum(number < count for number in there)} of {count} shards, "
        f"missing: {shown}; run the command that wrote them again, it makes only what is missing."
    )


def scan(folder: str | os.PathLike, partial: bool = False) -> Index:
    """Read every shard's small datasets; `partial` allows shards that are not there (yet).

    UserError: there are no shards, they are not of one set, one is missing or damaged.
    """
    headers = [read_header(path) for path in existing_shards(folder)]
    missing = missing_shards(folder, headers)
    for problem in [*set_problems(headers), *([missing] if missing and not partial else [])]:
        raise UserError(problem)
    parts = [read_rows(header.path) for header in headers]
    keys = Keys.concatenate([part.pop("keys") for part in parts])
    if not keys.is_sorted():
        raise damaged(folder, "its keys are not sorted and unique over all its shards")
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


def own_columns(file: h5py.File, header: ShardHeader) -> dict[str, h5py.Dataset]:
    """Return a shard's datasets; ValueError where one is not of the declared rows and type."""
    columns = {}
    for name, tail, kind in (
        ("masks", (header.canvas, header.canvas), "u1"),
        ("keys", (), "text"),
        ("status", (), "u1"),
        ("error", (), "text"),
        ("mask_size", (2,), "u4"),
        ("image_size", (2,), "u4"),
        *([("checks", (), "u4")] if header.version > 1 else []),
    ):
        column = columns[name] = own_dataset(file, name)
        shape = (header.images, *tail)
        if column.shape != shape:
            raise ValueError(f"{name} is {column.shape}, it should be {shape}")
        is_text = h5py.check_string_dtype(column.dtype) is not None
        if not (is_text if kind == "text" else column.dtype.str[1:] == kind):
            raise ValueError(f"{name} is of another type ({column.dtype})")
    canvas = header.canvas
    if not 0 < canvas <= MAX_CANVAS or columns["masks"].chunks != (1, canvas, canvas):
        raise ValueError(f"masks has chunks of {columns['masks'].chunks}")
    return columns


def read_keys(shard: h5py.File) -> Keys:
    """Read a shard's keys, in their order there."""
    return Keys.from_array(shard["keys"][:].astype("S"))


def read_rows(path: str | os.PathLike) -> dict[str, Any]:
    """Return a shard's columns but its masks: `keys`, `error` as text, and those of `Index`.

    UserError where they are not those that the shard was made with.
    """
    with open_shard(path) as file, reading(path):
        header = read_header(file)
        datasets = own_columns(file, header)
        keys, errors = read_keys(file), datasets["error"][:].tolist()
        checks = np.zeros(header.images, np.uint32)
        rows = {name: datasets[name][:] if name in datasets else checks for name in _ROWS}
        chunks = _chunks(datasets["masks"])
    content = (rows[name] for name in ("checks", "status", "mask_size", "image_size"))
    new = header.version > 1
    for what, same in (
        ("keys", keys.digest() == header.keys_digest),
        ("error texts", not new or texts_digest(errors) == header.error_digest),
        ("rows", not new or content_digest(*content) == header.content_digest),
        ("statuses", (rows["status"] < len(Status)).all()),
    ):
        if not same:
            raise damaged(path, f"its {what} are not those it was made with")
    texts = np.array([text.decode("utf-8", "replace") for text in errors], object)
    return {"keys": keys, "error": texts, **rows, **{n: chunks[n] for n in chunks.dtype.names}}


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
    OSError as for `data.files.write_whole`.
    """
    folder = Path(folder)
    index = scan(folder)
    aligned = {"alignment_threshold": 512, "alignment_interval": 512}  # arrays can be mapped
    with file_in_memory(**aligned) as file:
        shards, table = file.create_group("shards"), file.create_group("table")
        shards.create_dataset("name", data=index.names, dtype=TEXT_TYPE)
        shards.create_dataset("content_digest", data=index.content_digests, dtype=TEXT_TYPE)
        shards.create_dataset("bytes", data=np.array(_sizes(folder, index.names), "<i8"))
        shards.create_dataset("first_row", data=index.first_rows)
        table.create_dataset("keys", data=index.keys.array)  # contiguous: a run of bytes
        for name in _COLUMNS:
            table.create_dataset(name, data=getattr(index, name))
        sizes = shards["bytes"][:]
        header = {
            "format": INDEX_FORMAT,
            "format_version": np.uint32(VERSION),
            "complete": np.uint8(1),
            "method": index.method,
            "parameters": json.dumps(index.parameters, sort_keys=True),
            "software": json.dumps(index.software, sort_keys=True),
            "listing_digest": index.listing_digest,
            "shard_count": np.uint32(len(index.names)),
            "image_count": np.uint64(len(index.keys)),
            "table_digest": _table_digest(index, sizes),
        }
        for name, value in {**header, "header_digest": attributes_digest(header)}.items():
            file.attrs[name] = value
        _create_virtual(file, index, folder)
        file.flush()
        columns = [(table[name].id.get_offset(), table[name].nbytes) for name in table]
        image = file.id.get_file_image()
    write_sealed(folder / INDEX_NAME, image, apart=columns)  # they have `table_digest`
    return folder / INDEX_NAME


def _create_virtual(file: h5py.File, index: Index, folder: Path) -> None:
    """Join each of the shards' datasets to one; masks lie on the largest canvas."""
    rows, canvases = len(index.keys), [read_header(folder / name).canvas for name in index.names]
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
    """Map `index.h5`, and compare all of it with its digest, once.

    None when it is absent, incomplete, damaged, of an older version, or not of the shards that are
    there: then they are to be scanned. `Locked` where another process holds its lock.
    """
    folder = Path(folder)
    path = folder / INDEX_NAME
    try:
        with open_shard(path) as file, reading(path):
            return _load(file, folder)
    except Locked:
        raise
    except (OSError, UserError):
        return None


def _load(file: h5py.File, folder: Path) -> Index | None:
    attributes = read_attributes(file, "header_digest")
    kind = tuple(attributes[name] for name in ("format", "format_version", "complete"))
    names, digests, sizes, first_rows = (
        own_dataset(file["shards"], name)[:]
        for name in ("name", "content_digest", "bytes", "first_row")
    )
    names = [name.decode() for name in names]
    if (
        kind != (INDEX_FORMAT, VERSION, 1)
        or names != [path.name for path in shard_paths(folder)]
        or sizes.tolist() != _sizes(folder, names)
    ):
        return None
    raw = np.memmap(folder / INDEX_NAME, np.uint8, "r")
    table = {name: _mapped(raw, own_dataset(file["table"], name)) for name in ("keys", *_COLUMNS)}
    index = Index(
        method=str(attributes["method"]),
        parameters=json.loads(attributes["parameters"]),
        software=json.loads(attributes["software"]),
        listing_digest=str(attributes["listing_digest"]),
        shard_count=len(names),
        names=names,
        content_digests=[digest.decode() for digest in digests],
        first_rows=first_rows,
        keys=Keys.from_array(table.pop("keys")),
        **table,
    )
    return index if attributes["table_digest"] == _table_digest(index, sizes) else None


def _table_digest(index: Index, sizes: np.ndarray) -> str:
    """Return the SHA-256 in hex of all that the groups `shards` and `table` say."""
    total = hashlib.sha256()
    for texts in (index.names, index.content_digests):
        total.update("".join(f"{text}\0" for text in texts).encode())
    columns = (getattr(index, name) for name in _COLUMNS)
    for array in (sizes, index.first_rows, index.keys.array, *columns):
        total.update(np.ascontiguousarray(array, array.dtype.newbyteorder("<")).data.cast("B"))
    return total.hexdigest()


def _sizes(folder: Path, names: list[str]) -> list[int]:
    return [os.stat(folder / name).st_size for name in names]


def _mapped(raw: np.memmap, dataset: h5py.Dataset) -> np.ndarray:
    """Return a contiguous dataset as part of the mapped file."""
    offset = dataset.id.get_offset()
    if offset is None or dataset.chunks is not None or dataset.dtype.hasobject:
        raise ValueError(f"{dataset.name} is not contiguous")
    part = np.asarray(raw[offset : offset + dataset.nbytes])
    return part.view(dataset.dtype).reshape(dataset.shape)
