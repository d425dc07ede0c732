"""index.h5: all shards of a folder as one virtual dataset, with a table that finds masks in O(1).

Readers memory-map the table, so that all processes of a machine share one copy of it. It leads from
a key to its row, and from a row to the bytes of its mask.
"""

import json
import os
from itertools import pairwise
from pathlib import Path

import h5py
import numpy as np

from data.files import write_whole
from data.keys import Keys
from data.masks.format import (
    INDEX_NAME,
    STATUS_TYPE,
    TEXT_TYPE,
    VERSION,
    file_in_memory,
    open_shard,
    shard_paths,
)
from data.masks.scan import Index, scan

INDEX_FORMAT = "dilo-mask-index"


def build_index(folder: str | os.PathLike) -> Path:
    """Write `index.h5` for a whole set of shards, atomically; return its path.

    The shards are named relative to it, so the folder can be moved. UserError as for
    `read_headers`, OSError as for `write_whole`.
    """
    folder = Path(folder)
    index = scan(folder)
    aligned = {"alignment_threshold": 512, "alignment_interval": 512}  # arrays can be mapped
    with file_in_memory(**aligned) as file:
        _write_attributes(file, index, folder)
        _write_table(file, index)
        _write_virtual(file, index, folder)
        file.attrs["complete"] = np.uint8(1)
        file.flush()
        image = file.id.get_file_image()
    write_whole(folder / INDEX_NAME, image)
    return folder / INDEX_NAME


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
        ("keys", index.keys.array),
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
                keys=_keys(raw, table),
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
