"""Where a Parquet file has its values: in it as they are, or in compressed pages of it."""

import mmap
from collections.abc import Iterator
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from data.images.archives import LARGEST, Block, Place, unpacked

_GAP = 4096  # bytes at most between a value and the next: the header of a page


class _Part(NamedTuple):
    """A part of a column: bytes of the file as they are, or a page that was unpacked."""

    block: Block
    data: Any  # bytes, or the file's
    start: int
    end: int


class ParquetFile:
    """A Parquet file and its schema. name : of it, in the dataset."""

    def __init__(self, path: str, name: str) -> None:
        self._file = pq.ParquetFile(path, page_checksum_verification=True)
        self._name = name
        self.schema = self._file.schema_arrow
        with open(path, "rb") as file:
            self._bytes = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)

    def batches(self, columns: list[str], leaf: str) -> Iterator[pa.RecordBatch]:
        """Yield the rows, of these columns. leaf : the values that `places` will be asked for."""
        metadata = self._file.metadata
        for group in range(metadata.num_row_groups):
            for number in range(metadata.num_columns):
                chunk = metadata.row_group(group).column(number)
                if chunk.path_in_schema == leaf:
                    self._parts = self._parts_of(chunk)
                    self._part = next(self._parts)
                    self._at = self._part.start
                    self._dictionary = self._part if chunk.has_dictionary_page else None
            yield from self._file.iter_batches(64, row_groups=[group], columns=columns)

    def places(self, values: pa.Array) -> list[Place | None]:
        """Return where the next values lie; None for null."""
        return [None if value is None else self._place(value) for value in values.to_pylist()]

    def _place(self, value: bytes) -> Place:
        """Find a value: right behind the one before, or in the dictionary, or further on."""
        block, data, _, end = self._part
        at = data.find(value, self._at, min(end, self._at + len(value) + _GAP))
        if at < 0 and self._dictionary is not None:
            block, data, start, end = self._dictionary
            if (again := data.find(value, start, end)) >= 0:
                return Place(again, len(value), block)
        while at < 0:
            block, data, _, end = self._part
            if (at := data.find(value, self._at, end)) < 0:
                self._part = next(self._parts, None)
                if self._part is None:
                    raise ValueError("its values are encoded in parts: write them as plain")
                self._at = self._part.start
        self._at = at + len(value)
        return Place(at, len(value), block)

    def _parts_of(self, chunk: pq.ColumnChunkMetaData) -> Iterator[_Part]:
        """Yield the parts of a column of a row group, in order; a dictionary comes first."""
        packing = chunk.compression.lower()
        at = chunk.dictionary_page_offset if chunk.has_dictionary_page else chunk.data_page_offset
        end = at + chunk.total_compressed_size
        if packing == "uncompressed":
            yield _Part(Block(self._name), self._bytes, at, end)
            return
        while at < end:
            header, at = _read_struct(self._bytes, at)
            of_version_2 = header.get(8, {})
            levels = of_version_2.get(5, 0) + of_version_2.get(6, 0)  # are not compressed
            stored, size = header[3] - levels, header[2] - levels
            if header[3] <= 0 or levels < 0 or not (stored >= 0 and 0 <= size <= LARGEST):
                raise ValueError("a page's header of impossible sizes")
            block = Block(self._name, at + levels, stored, size, packing)
            at += header[3]
            if of_version_2.get(7, True):
                data = unpacked(self._bytes[block.offset : at], block)
                yield _Part(block, data, 0, len(data))
            else:
                yield _Part(Block(self._name), self._bytes, block.offset, at)


def _read_struct(data: mmap.mmap, at: int, depth: int = 0) -> tuple[dict[int, Any], int]:
    """Read a page's header, in Thrift's compact protocol: its fields by number, and its end."""
    if depth > 4:
        raise ValueError("a page's header that is nested without an end")
    fields: dict[int, Any] = {}
    number = 0
    while kind := data[at]:
        at += 1
        if kind >> 4:
            number += kind >> 4
        else:
            number, at = _read_integer(data, at)
        kind &= 15
        if kind in (1, 2):  # true, false
            fields[number] = kind == 1
        elif kind == 3:
            fields[number], at = data[at], at + 1
        elif kind in (4, 5, 6):
            fields[number], at = _read_integer(data, at)
        elif kind == 8:  # text, whose length is not zigzag
            length, at = _read_integer(data, at, zigzag=False)
            at += length
        elif kind == 12:
            fields[number], at = _read_struct(data, at, depth + 1)
        else:
            raise ValueError("a page's header of no known kind")
    return fields, at + 1


def _read_integer(data: mmap.mmap, at: int, zigzag: bool = True) -> tuple[int, int]:
    value = shift = 0
    while shift < 70:
        byte = data[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return (value >> 1) ^ -(value & 1) if zigzag else value, at
    raise ValueError("a page's header with a number without an end")
